#!/usr/bin/env python3
"""Tests that faults.py and power.py find the failures of hand-made runs."""

import unittest
from types import SimpleNamespace

import faults
import power
import replay

FOLDER = "/w"
OLD, NEW = b"old", b"new!"


def calls(*lines):
    return [replay.Call(line, FOLDER) for line in lines]


SAVE = [
    "open\t/w/./.m.1.tmp\tcreate",
    f"write\t/w/.m.1.tmp\t0\t{NEW.hex()}",
    "fsync\t/w/.m.1.tmp",
    "rename\t/w/.m.1.tmp\t/w/m",
    "open\t/w\t",
    "fsync\t/w",
]


def power_judge(lines, before, final):
    judge = object.__new__(power.Judge)
    judge.before, judge.calls, judge.final = before, calls(*lines), final
    judge.versions = replay.versions(judge.calls, before)
    return judge


def power_failures(lines, before=None, final=None):
    judge = power_judge(lines, before or {"m": OLD}, final or {"m": NEW})
    disk, found = power.Disk(judge.before), set()
    for i in range(len(judge.calls) + 1):
        if i:
            disk.step(judge.calls[i - 1])
        found |= {judge.judge(files, i == len(judge.calls)) for files in disk.crashes()}
    return found - {None}


class Power(unittest.TestCase):
    def test_a_save_that_syncs_leaves_old_or_new(self):
        self.assertEqual(power_failures(SAVE), set())
        self.assertTrue(power.without_syncs(power_judge(SAVE, {"m": OLD}, {"m": NEW})))

    def test_a_rename_before_the_data_is_synced_is_found(self):
        found = power_failures([line for line in SAVE if line != "fsync\t/w/.m.1.tmp"])
        self.assertTrue(any("neither old nor new" in what for what in found), found)

    def test_a_folder_that_is_not_synced_is_found_at_the_end(self):
        found = power_failures(SAVE[:-1])
        self.assertEqual(found, {"after exit code 0, 'm' is not the new one"})

    def test_a_file_written_in_place_is_found(self):
        found = power_failures(["open\t/w/m\t truncate", f"write\t/w/m\t0\t{NEW.hex()}", "fsync\t/w/m"])
        self.assertTrue(any("neither old nor new" in what for what in found), found)

    def test_a_state_that_goes_before_the_matrix_is_found(self):
        before = {"m": OLD, "m.state": b"state"}
        self.assertEqual(power_failures([*SAVE, "unlink\t/w/m.state"], before), set())
        found = power_failures(["unlink\t/w/m.state", *SAVE], before)
        self.assertEqual(found, {"'m.state' is gone before 'm' is new"})


class Faults(unittest.TestCase):
    def judge(self, code, errors, files, before=None):
        expected = object.__new__(faults.Expected)
        expected.before = before or {"m": OLD}
        expected.versions = replay.versions(calls(*SAVE), expected.before)
        expected.final = {"m": NEW, "stdout.txt": b"done"}
        return expected.judge(SimpleNamespace(code=code, errors=errors, files=files))

    def test_old_or_new_with_an_error_that_says_why_is_well(self):
        for left in (OLD, NEW):
            self.assertIsNone(self.judge(1, "error: cannot save 'm': No space left on device\n", {"m": left}))
        self.assertIsNone(self.judge(0, "", {"m": NEW, "stdout.txt": b"done"}))

    def test_what_must_not_be_is_found(self):
        why = "error: cannot save 'm': No space left on device\n"
        for kind, code, errors, files in [
            ("lost", 1, why, {"m": NEW[:2]}),
            ("lost", 1, why, {}),
            ("lost", 0, "", {"m": b""}),
            ("silent", 0, "", {"m": OLD, "stdout.txt": b"done"}),
            ("silent", 0, "", {"m": NEW, "stdout.txt": b"do"}),
            ("silent", 0, "", {"m": NEW, "stdout.txt": b"done", "m.state": b"state"}),
            ("silent", 1, "", {"m": OLD}),
            ("silent", 1, "error: it failed\n", {"m": OLD}),
            ("crashed", 139, "", {"m": OLD}),
        ]:
            self.assertEqual(self.judge(code, errors, files)[0], kind, (code, errors, files))


if __name__ == "__main__":
    unittest.main()
