from __future__ import annotations

import logging
import warnings

import pytest

from mqb_monai.system.quiet import quiet


def test_quiet_is_silent_within_the_block_and_puts_everything_back(caplog):
    """Warnings are errors in these tests, outside of the block."""
    logger = logging.getLogger("somebody.elses")
    logger.setLevel(logging.INFO)
    with pytest.raises(KeyError), quiet("somebody.elses"):
        logger.warning("not heard")
        logger.error("heard")
        warnings.warn("not seen", UserWarning, stacklevel=1)
        raise KeyError
    assert [record.message for record in caplog.records] == ["heard"] and logger.level == logging.INFO
    with pytest.raises(UserWarning, match="seen"):
        warnings.warn("seen", UserWarning, stacklevel=1)


def test_quiet_takes_another_level(caplog):
    with quiet("somebody.elses", below=logging.CRITICAL):
        logging.getLogger("somebody.elses").error("not heard")
    assert not caplog.records
