import subprocess
import sys

import pytest

from torchlift.errors import SourceError
from torchlift.families import FAMILIES, family


def test_a_family_is_found_by_name():
    assert family("chinese-clip").name == "chinese-clip"


@pytest.mark.parametrize("wrong", ["chinese_clip", "Chinese-CLIP", "chineseclip"])
def test_an_unknown_family_is_refused_with_the_nearest_name(wrong):
    with pytest.raises(SourceError, match="there is no family") as caught:
        family(wrong)
    assert "Did you mean 'chinese-clip'?" in str(caught.value)
    assert "module" in caught.value.remedy


def test_a_name_like_no_other_gets_no_suggestion():
    with pytest.raises(SourceError) as caught:
        family("zzz")
    assert caught.value.remedy == f"The families are {', '.join(sorted(FAMILIES))}."


def test_the_registry_does_not_import_torch():
    code = "import sys, torchlift.families; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
