"""What the embedded model knows, for whoever asks it for something outside its small world: that means nothing."""

from collections.abc import Callable

from cai.cli.screen import complain


def note_if_unknown(model: str, text: str) -> None:
    from cai.models.tiny.world import prompts

    if knows(model)(text):
        return
    known = [prompt.messages[-1].content for prompt in prompts("test", per_class=1)]
    complain(f"note: the embedded model knows the requests of its small world only, such as: {' '.join(known)}")


def knows(model: str) -> Callable[[str], bool]:
    """Whether a text is a request that means something to this model, as far as that can be told."""
    from cai.models.tiny.oracle import find_ask

    return lambda text: model != "tiny" or find_ask(text) is not None
