"""A word to whoever asks the embedded model for something outside its small world: what it says then means nothing."""

from cai.cli.screen import complain


def note_if_unknown(model: str, text: str) -> None:
    from cai.models.tiny.oracle import find_ask
    from cai.models.tiny.world import prompts

    if model != "tiny" or find_ask(text) is not None:
        return
    known = [prompt.messages[-1].content for prompt in prompts("test", per_class=1)]
    complain(f"note: the embedded model knows the requests of its small world only, such as: {' '.join(known)}")
