"""Which judged pairs are kept: revisions that the judge confirms, or of many samples the best against the worst.

Every pair that is not kept is a named reject or a count. The judgement itself is `judge`'s.
"""

from collections import defaultdict
from collections.abc import Sequence

from cai.feedback.outcome import Outcome, first_of_each
from cai.feedback.pairs import CandidatePair
from cai.records import Preference, Prompt, Reject, content_id


def confirmed(pairs: Sequence[CandidatePair], judged: Outcome[Preference]) -> Outcome[Preference]:
    """Without the pairs of which the judge does not prefer the revision, which is each pair's second answer."""
    revised = {pair.id: pair.second for pair in pairs}
    outcome: Outcome[Preference] = Outcome([], list(judged.rejects), judged.notes.copy())
    for preference in judged.records:
        pair_id = _pair_id(preference)
        better = preference.chosen == revised[pair_id]
        if better and preference.kind == "preferred":
            outcome.records.append(preference)
            continue
        p = preference.p_chosen if better else 1 - preference.p_chosen
        told = f"a {preference.kind}, with {p:.2f} for the revision"
        if preference.kind == "preferred":
            told = f"the judge prefers the original, with {p:.2f} for the revision"
        outcome.rejects.append(Reject(pair_id, "prefer", "unconfirmed revision", told))
    outcome.notes["confirmed revisions"] = len(outcome.records)
    return outcome


def best_against_worst(
    prompts: Sequence[Prompt], pairs: Outcome[CandidatePair], judged: Outcome[Preference]
) -> Outcome[Preference]:
    """One preference for each prompt: the answer that won most probability against the one that won least.

    Where these two never met, or could not be judged, the judged pair furthest apart stands for them. A prompt without
    any is a reject under its own id, for the reason that its first pair gives.
    """
    met: dict[str, list[Preference]] = defaultdict(list)
    for preference in judged.records:
        met[preference.prompt.id].append(preference)
    prompt_of = {pair.id: pair.prompt.id for pair in pairs.records}
    lost = {prompt_of.get(reject.id, reject.id): reject for reject in reversed([*pairs.rejects, *judged.rejects])}
    outcome: Outcome[Preference] = Outcome(notes=pairs.notes + judged.notes)
    for prompt in first_of_each(prompts, "prefer", outcome.rejects):
        own = met.get(prompt.id)
        if own:
            outcome.records.append(_widest(own))
            outcome.notes["pairs only compared"] += len(own) - 1
        else:
            reject = lost[prompt.id]
            outcome.rejects.append(Reject(prompt.id, "prefer", reject.reason, reject.detail))
    return outcome


def _widest(preferences: Sequence[Preference]) -> Preference:
    won: dict[str, list[float]] = defaultdict(list)
    for preference in preferences:
        won[preference.chosen].append(preference.p_chosen)
        won[preference.rejected].append(1 - preference.p_chosen)
    strength = {answer: sum(ps) / len(ps) for answer, ps in won.items()}

    def gap(preference: Preference) -> tuple[float, str]:
        # By hash where gaps are equal, so that no wording is favoured and the order they came in does not matter.
        return strength[preference.chosen] - strength[preference.rejected], content_id(preference.id)

    return max(preferences, key=gap)


def _pair_id(preference: Preference) -> str:
    return CandidatePair(preference.prompt, preference.chosen, preference.rejected, "").id
