"""The patient's key: the same for all her images, unlike her id, and never lost unnoticed."""

import hashlib
import hmac
import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from ftmtl.patient_key import PatientKey, PatientKeyError


@dataclass(frozen=True)
class Image:
    """The fields of a mammogram that matter here."""

    patient_id: str | None = None
    study_uid: str | None = None
    image_id: str = "i1"


@pytest.fixture
def key(tmp_path):
    return PatientKey.open(tmp_path / "key", labels_exist=False)


def test_it_is_hmac_sha256_with_the_secret_in_the_file(tmp_path, key):
    secret = bytes.fromhex((tmp_path / "key").read_text().strip())
    assert len(secret) == 32
    expected = hmac.new(secret, b"patient:P_00173", hashlib.sha256).hexdigest()[:16]
    assert key.of(Image("P_00173")) == expected
    assert re.fullmatch("[0-9a-f]{16}", expected)


def test_one_key_a_patient_and_the_same_after_a_restart(tmp_path, key):
    first = key.of(Image("P_00173", "s1", "i1"))
    assert first == key.of(Image(" P_00173 ", "s2", "i2"))  # DICOM pads with blanks
    assert first != key.of(Image("P_00820", "s1", "i1"))
    assert first == PatientKey.open(tmp_path / "key", labels_exist=True).of(Image("P_00173"))
    other = tmp_path / "other"
    assert first != PatientKey.open(other, labels_exist=False).of(Image("P_00173"))


def test_without_an_id_the_study_and_then_the_image_stand_for_her(key):
    by_study = key.of(Image(None, "s1", "i1"))
    assert by_study == key.of(Image("  ", "s1", "i2"))
    by_image = key.of(Image(None, None, "i3"))
    # A study or image never gets the key of a patient, even if they are called the same.
    assert len({by_study, by_image, key.of(Image("s1")), key.of(Image("i3"))}) == 4


@pytest.mark.skipif(os.name != "posix", reason="modes are POSIX's")
def test_only_its_owner_can_read_the_file(tmp_path, key):
    file = tmp_path / "key"
    assert file.stat().st_mode & 0o777 == 0o600
    file.chmod(0o644)
    PatientKey.open(file, labels_exist=True)
    assert file.stat().st_mode & 0o777 == 0o600
    assert [entry.name for entry in tmp_path.iterdir()] == ["key"]


def test_a_lost_key_is_not_replaced_where_labels_exist(tmp_path):
    with pytest.raises(PatientKeyError, match="gone"):
        PatientKey.open(tmp_path / "key", labels_exist=True)
    assert not (tmp_path / "key").exists()


@pytest.mark.parametrize("content", [b"", b"secret", b"ab" * 31, b"\xff" * 64])
def test_a_damaged_key_is_not_replaced(tmp_path, content):
    file = tmp_path / "key"
    file.write_bytes(content)
    with pytest.raises(PatientKeyError, match="not a patient key"):
        PatientKey.open(file, labels_exist=False)
    assert file.read_bytes() == content


def test_a_folder_that_is_not_there(tmp_path):
    with pytest.raises(PatientKeyError, match="No such file"):
        PatientKey.open(tmp_path / "missing" / "key", labels_exist=False)


def test_processes_that_start_together_share_one_key(tmp_path):
    program = (
        "import sys, time; from pathlib import Path; from ftmtl.patient_key import PatientKey\n"
        "file = Path(sys.argv[1]); print('ready', flush=True); sys.stdin.readline()\n"
        "class Image: patient_id = 'a'; study_uid = None; image_id = 'i'\n"
        "for n in range(50):\n"
        "    print(PatientKey.open(file / str(n), labels_exist=False).of(Image()))\n"
    )
    root = Path(__file__).parent.parent
    started = [
        subprocess.Popen(
            [sys.executable, "-c", program, str(tmp_path)],
            cwd=root,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(3)
    ]
    for process in started:
        assert process.stdout.readline() == "ready\n"
    for process in started:
        process.stdin.write("go\n")
        process.stdin.flush()
    keys = [process.communicate(timeout=60)[0].split() for process in started]
    assert keys[0] == keys[1] == keys[2] and len(set(keys[0])) == 50
    assert len(list(tmp_path.iterdir())) == 50
