"""The guide: every piece of a pipeline in it is sound, and every reason and setting that it names is there."""

import re
from pathlib import Path

from cai.models.protocol import TOO_LONG
from cai.models.remote.spec import RemoteSpec
from cai.pipeline.configs import PreferConfig, ReviseConfig
from cai.strict_yaml import parse_yaml

ROOT = Path(__file__).parents[3]
GUIDE = (ROOT / "docs" / "remote.md").read_text("utf-8")
ROOM = "".join(path.read_text("utf-8") for path in (ROOT / "cai" / "models" / "remote").glob("*.py"))
BLOCKS = re.findall(r"```yaml\n(.*?)```", GUIDE, re.DOTALL)


def test_every_piece_of_a_pipeline_is_sound() -> None:
    found = 0
    for block in BLOCKS:
        data = parse_yaml(block, "docs/remote.md").data
        assert isinstance(data, dict)
        for spec in data["models"].values():
            found += bool(RemoteSpec.model_validate(spec))
        for stage in data.get("stages", ()):
            for kind, settings in stage.items():
                {"revise": ReviseConfig, "prefer": PreferConfig}[kind].model_validate(settings)
    assert found == len(BLOCKS) == 3


def test_every_setting_that_is_named_exists() -> None:
    fields = {*RemoteSpec.model_fields, "cost", "tokens", "seconds"}
    named = set(re.findall(r"`([a-z]+_[a-z]+|tries|concurrency|cost|tokens|seconds|extra)`", GUIDE))
    elsewhere = {"max_tokens", "max_completion_tokens", "judged_by"}
    assert named - elsewhere <= fields


def test_every_reason_that_is_named_is_given() -> None:
    for reason in ("request refused", "tool call", "content filter", "unclear judgement"):
        assert f"`{reason}`" in GUIDE
        assert f'"{reason}"' in ROOM
    assert f"`{TOO_LONG}`" in GUIDE
    assert '"row", TOO_LONG' in ROOM
