from __future__ import annotations

import pytest

from cvtune.errors import WeightsError
from cvtune.models.licences import is_non_commercial, require_accepted


@pytest.mark.parametrize(
    "name",
    ["cc-by-nc-4.0", "CC BY-NC-SA 4.0", "fair-noncommercial-research-license", "Non-Commercial", "apple-amlr"],
)
def test_licences_that_forbid_commercial_use(name: str) -> None:
    assert is_non_commercial(name)


@pytest.mark.parametrize(
    "name", ["apache-2.0", "mit", "bsd-3-clause", "unknown", "unknown (your file)", "cc-by-4.0", "none", ""]
)
def test_licences_that_allow_it_or_say_nothing(name: str) -> None:
    assert not is_non_commercial(name)


def test_the_hint_is_the_flag_that_accepts_it() -> None:
    with pytest.raises(WeightsError, match=r"'cc-by-nc-4.0', which does not allow commercial use") as caught:
        require_accepted("cc-by-nc-4.0", ("mit",), backbone="resnet18")
    assert "`--accept-license cc-by-nc-4.0`" in caught.value.hint
    with pytest.raises(WeightsError) as caught:
        require_accepted("CC BY-NC 4.0", (), backbone="resnet18")
    assert '`--accept-license "CC BY-NC 4.0"`' in caught.value.hint


def test_a_named_licence_passes_whatever_its_case() -> None:
    require_accepted("CC-BY-NC-4.0", ("cc-by-nc-4.0",), backbone="resnet18")
