"""A model as the rest of the project sees it: the base, or an adapter on it, that answers and weighs.

Many views share one resident network. Each call takes the network's lock and switches its own adapter on, so views may
be used from several threads, one call at a time.
"""

import threading
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch

from cai.errors import OutOfMemory
from cai.models.local.choices import MAX_PASS_TOKENS, choice_logps
from cai.models.local.decode import Decoded, DecodeRow, Decoding, Memory, decode
from cai.models.local.fallback import choice_logps_alone, decode_by_generate
from cai.models.local.loading import Loaded
from cai.models.local.lora import Adapters
from cai.models.local.prefix import Kept
from cai.models.local.replica import Replicas
from cai.models.local.steps import Steps
from cai.models.local.width import USUAL, AtOnce
from cai.models.protocol import Choice, ChoiceRequest, Reply, Request, RowError


@dataclass(frozen=True, slots=True)
class Bench:
    """What all views of a workbench share."""

    loaded: Loaded
    adapters: Adapters
    lock: threading.RLock
    kept: Kept
    replicas: Replicas
    steps: Steps
    limits: "Limits"


class Limits:
    """How much is in hand at once, at most."""

    def __init__(self, usual: AtOnce = USUAL) -> None:
        self.usual = usual
        """What fits beside the model, by the estimate."""
        self.at_once = usual

    def set(self, at_once: AtOnce | None) -> None:
        self.at_once = self.usual if at_once is None else at_once


class LocalModel:
    """One role of the resident model: answers conversations, goes on with texts and weighs given continuations."""

    def __init__(
        self, bench: Bench, name: str, adapter: str | None, fingerprint: Callable[[], str], frozen: bool = True
    ) -> None:
        self.name = name
        self._bench = bench
        self._adapter = adapter
        self._fingerprint = fingerprint
        self._frozen = frozen
        self._memory = Memory(bench.kept, adapter or "") if frozen else None
        """Nothing is remembered of weights that change."""
        self._steps = bench.steps if frozen else None
        """Nor is room held that their training needs."""

    @property
    def fingerprint(self) -> str:
        """A digest of weights, adapter, quantisation and template; an adapter in training changes it."""
        return self._fingerprint()

    def generate(self, requests: Sequence[Request]) -> list[Reply]:
        """Every answer, in the order asked. A conversation that cannot become tokens raises `RowError`."""
        if not requests:
            return []
        rows = [self._row(request) for request in requests]
        with self._at_work():
            network, at_once = self._bench.loaded.network, self._bench.limits.at_once
            if network.decodes:
                decoded = decode(network, rows, self._ending(requests), self._memory, at_once, self._steps)
            else:
                decoded = decode_by_generate(network, rows, self._ending(requests), at_once.rows)
        return [self._reply(*both) for both in zip(requests, rows, decoded, strict=True)]

    def choose(self, requests: Sequence[ChoiceRequest]) -> list[Choice]:
        """The summed log-probability of each continuation, as the opening of the answer or as what follows the text;
        nothing is generated."""
        chat = self._bench.loaded.chat
        encoded = [
            chat.encode_text_choices(r.text, r.continuations)
            if r.text
            else chat.encode_choices(r.messages, r.continuations)
            for r in requests
        ]
        with self._at_work():
            network, rows = self._bench.loaded.network, min(self._bench.limits.at_once.rows, USUAL.rows)
            if network.decodes:
                sums = choice_logps(network, encoded, self._memory, MAX_PASS_TOKENS * rows // USUAL.rows)
            else:
                sums = choice_logps_alone(network, encoded)
        read = [len(prompt_ids) + max(map(len, options)) for prompt_ids, options in encoded]
        return [Choice(tuple(row), tokens=tokens) for row, tokens in zip(sums, read, strict=True)]

    def stream(self, request: Request) -> Generator[str, None, Reply]:
        """The answer in pieces as it comes, and at the end the reply that `generate` gives."""
        if not self._bench.loaded.network.decodes:
            whole = self.generate([request])[0]
            yield whole.text
            return whole
        row = self._row(request)
        ending = self._ending([request])
        with self._at_work():
            network, at_once = self._bench.loaded.network, self._bench.limits.at_once
            decoding = Decoding(network, [row], ending, self._memory, at_once, self._steps)
        sent = 0
        while not decoding.done():
            with self._at_work():
                decoding.step()
            text = self._text(request, decoding.drawn(0))
            safe = len(text) if decoding.done() else _safe_length(text, request.sampling.stop)
            if safe > sent:
                yield text[sent:safe]
                sent = safe
        return self._reply(request, row, decoding.results()[0])

    @contextmanager
    def _at_work(self) -> Iterator[None]:
        """The network to ourselves, with our weights; an allocator's complaint becomes an error of ours."""
        bench = self._bench
        try:
            dense = self._adapter if self._frozen else None
            with (
                bench.lock,
                bench.adapters.active(self._adapter),
                bench.replicas.active(dense) as copy,
                bench.steps.speaking(self._adapter, copy),
            ):
                yield
        except (torch.OutOfMemoryError, RuntimeError) as error:
            if not isinstance(error, torch.OutOfMemoryError) and "allocate memory" not in str(error):
                raise
            bench.kept.clear()
            bench.steps.clear()
            raise OutOfMemory(str(bench.loaded.network.device), bench.limits.at_once.rows) from error

    def _row(self, request: Request) -> DecodeRow:
        chat = self._bench.loaded.chat
        text, messages = request.text, request.messages
        prompt_ids = chat.encode_text(text) if text else chat.encode_prompt(messages, request.tools)
        room = chat.room_after(prompt_ids, request.sampling.max_new_tokens)
        if room < 1:
            raise RowError("no room", f"an answer of {request.sampling.max_new_tokens} tokens was asked for")
        return DecodeRow(prompt_ids, replace(request.sampling, max_new_tokens=room), request.seed, request.logprobs)

    def _ending(self, requests: Sequence[Request]) -> Callable[[int, Sequence[int]], bool]:
        stop_ids, chat = self._bench.loaded.stop_ids, self._bench.loaded.chat
        # A stop text of n bytes lies within the last n tokens, the newest may reach beyond it, and the first of a
        # decoded tail may lose its space.
        tails = [max((len(stop.encode()) for stop in r.sampling.stop), default=0) + 2 for r in requests]

        def ended(i: int, ids: Sequence[int]) -> bool:
            if ids[-1] in stop_ids:
                return True
            stops = requests[i].sampling.stop
            return bool(stops) and any(stop in chat.text(ids[-tails[i] :]) for stop in stops)

        return ended

    def _reply(self, request: Request, row: DecodeRow, decoded: Decoded) -> Reply:
        text = self._text(request, decoded.ids)
        logps = decoded.logps if request.logprobs else ()
        return Reply(text, decoded.finish, len(row.prompt_ids), len(decoded.ids), decoded.ids, logps)

    def _text(self, request: Request, ids: Sequence[int]) -> str:
        """The text before the first stop; the end-of-turn id says nothing."""
        said = ids[:-1] if ids and ids[-1] in self._bench.loaded.stop_ids else ids
        text = self._bench.loaded.chat.text(said)
        cuts = [text.find(stop) for stop in request.sampling.stop]
        return text[: min((cut for cut in cuts if cut >= 0), default=len(text))]


def _safe_length(text: str, stops: Sequence[str]) -> int:
    """How much of an unfinished text cannot change any more: no half character at its end, no stop that has begun."""
    safe = len(text.rstrip("�"))
    for stop in stops:
        for k in range(min(len(stop), safe), 0, -1):
            if text[:safe].endswith(stop[:k]):
                safe -= k
                break
    return safe
