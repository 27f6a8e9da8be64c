"""Limits on what is read from files."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from budgetloader import DatasetError
from budgetloader.limits import MAX_SCANS, check_scans

_PIECES = st.lists(st.sampled_from([b"\xff\xda", b"\xff", b"\xda", b"\x00", b"\xff\xff\xda\xda"]), max_size=400)


@given(_PIECES, st.sampled_from([b"", b"\xff\xda" * (MAX_SCANS - 1), b"\x00" + b"\xff\xda" * MAX_SCANS]))
def test_a_jpeg_of_too_many_scans_is_refused_wherever_they_stand(pieces, before):
    data = before + b"".join(pieces)
    if data.count(b"\xff\xda") > MAX_SCANS:
        with pytest.raises(DatasetError, match="scans are more"):
            check_scans(data)
    else:
        check_scans(data)
