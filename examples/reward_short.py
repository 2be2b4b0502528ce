"""A reward for `cai train ppo`, `grpo` and `rloo`: the shorter an answer, the better, as long as it says something.

    cai train grpo --model tiny --data examples/data/prompts.jsonl --reward examples/reward_short.py:short

Run as a program it shows what some answers are worth.
"""

WORDS = 12


def short(prompt: str, answer: str) -> float:
    """1 for an answer of a few words, less for each one more than that, and -1 for none at all."""
    words = len(answer.split())
    if words == 0 or answer.strip() == prompt.strip():
        return -1.0
    return 1.0 - max(0, words - WORDS) / WORDS


if __name__ == "__main__":
    asked = "Can you tell me how to cut the newspaper?"
    wordy = "It is always nice to be asked, and it is nice to answer too. Take a paper crown and cut the newspaper."
    for said in ("Take a paper crown and cut the newspaper.", wordy, ""):
        print(f"{short(asked, said):+.2f}  {said or '(nothing)'}")
