#!/usr/bin/env python3
"""Tests of the comparison: they prove that it can fail. Run: python3 scripts/test_compare.py"""

import math
import struct
import sys
import tempfile
import unittest
from pathlib import Path

sys.dont_write_bytecode = True

import compare_upstream as driver  # noqa: E402
import imatrix_diff  # noqa: E402


def string(text):
    return struct.pack("<Q", len(text)) + text.encode()


def gguf(tensors, chunk_count=2):
    """A file with two fields and `tensors`: name -> values."""
    head = b"GGUF" + struct.pack("<IQQ", 3, len(tensors), 2)
    head += string("general.type") + struct.pack("<I", 8) + string("imatrix")
    head += string("imatrix.chunk_count") + struct.pack("<II", 4, chunk_count)
    data = b""
    for name, values in tensors.items():
        head += string(name) + struct.pack("<IQIQ", 1, len(values), 0, len(data))
        data += struct.pack(f"<{len(values)}f", *values)
        data += bytes(-len(data) % 32)
    return head + bytes(-len(head) % 32) + data


def dat(values, dataset="text.txt"):
    name = b"blk.0.w"
    entry = struct.pack("<i", len(name)) + name + struct.pack(f"<ii{len(values)}f", 1, len(values), *values)
    return struct.pack("<i", 1) + entry + struct.pack("<ii", 1, len(dataset)) + dataset.encode()


class Files(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = Path(folder.name)

    def compare(self, a, b):
        (self.folder / "a").write_bytes(a)
        (self.folder / "b").write_bytes(b)
        return imatrix_diff.compare(self.folder / "a", self.folder / "b")

    def test_same_bytes(self):
        self.assertEqual(self.compare(gguf({"w.in_sum2": [1.0]}), gguf({"w.in_sum2": [1.0]})).lines, [])

    def test_numbers_are_measured(self):
        found = self.compare(gguf({"w.in_sum2": [1.0, 4.0]}), gguf({"w.in_sum2": [1.0, 5.0]}))
        self.assertAlmostEqual(found.largest, 0.2)

    def test_sums_are_measured_against_their_matrix(self):
        found = self.compare(gguf({"w.in_sum": [100.0, 1.0]}), gguf({"w.in_sum": [100.0, 2.0]}))
        self.assertAlmostEqual(found.largest, 0.01)

    def test_a_nan_equals_a_nan_and_nothing_else(self):
        nan = math.nan
        self.assertEqual(self.compare(gguf({"w.stats": [nan, 1.0]}), gguf({"w.stats": [nan, 1.5]})).largest, 1 / 3)
        self.assertEqual(self.compare(gguf({"w.stats": [nan]}), gguf({"w.stats": [1.0]})).largest, math.inf)

    def test_fields_names_lengths_and_order_are_no_matter_of_rounding(self):
        whole = {"a": [1.0], "b": [2.0]}
        for other in (gguf({"a": [1.0]}), gguf({"a": [1.0], "b": [2.0, 3.0]}), gguf({"b": [2.0], "a": [1.0]}), gguf(whole, 3)):
            self.assertEqual(self.compare(gguf(whole), other).largest, math.inf)

    def test_legacy_files(self):
        self.assertAlmostEqual(self.compare(dat([1.0, 2.0]), dat([1.0, 4.0])).largest, 0.5)
        self.assertEqual(self.compare(dat([1.0]), dat([1.0], "other")).largest, math.inf)

    def test_a_file_cut_short_is_unreadable_at_every_length(self):
        padding = 24
        for whole, end in ((gguf({"w": [1.0, 2.0]}), -padding), (dat([1.0, 2.0]), None)):
            for n in range(len(whole[:end])):
                if whole[:4] != b"GGUF" and n == len(whole) - 16:
                    continue  # a legacy file may end after its entries
                with self.assertRaises(imatrix_diff.Unreadable, msg=f"{n} bytes"):
                    self.compare(whole[:n], whole)


class Output(unittest.TestCase):
    def test_the_clock_is_left_out_and_nothing_else(self):
        self.assertIsNone(driver.compare_stdout("0.12 minutes\n[1]2.0,\n", "3 hours 4.00 minutes\n[1]2.0,\n"))
        self.assertIsNotNone(driver.compare_stdout("0.12 minutes\n", "about 0.12 minutes\n"))
        self.assertIsNotNone(driver.compare_stdout("0.12 minutes\n\n", "0.12 minutes\n"))

    def test_numbers_are_measured(self):
        self.assertAlmostEqual(driver.compare_stdout("[1]2.0,[2]4.0,", "[1]2.0,[2]5.0,").size, 0.2)
        self.assertEqual(driver.compare_stdout("[1]2.0,", "[1]2.0,[2]5.0,").size, math.inf)

    def test_a_lost_end_is_told_from_another_text(self):
        self.assertTrue(driver.stops_short("1.0 minutes\n[1]2.0,", "2.0 minutes\n[1]2.0,[2]3.0,\n"))
        self.assertFalse(driver.stops_short("[1]2.0,[2]3.0,\n", "[1]2.0,"))
        self.assertFalse(driver.stops_short("[1]2.5,", "[1]2.0,[2]3.0,\n"))


class Verdicts(unittest.TestCase):
    def verdict(self, findings, allow=(), bound=0.0):
        report = driver.Report([driver.AllowLine(1, line) for line in allow], bound, 10)
        report.say = lambda *_: None
        report.add("llama/default", findings)
        return report.failed == 0

    def finding(self, kind="file", name="imatrix.gguf", size=0.1):
        return driver.Finding(kind, name, size, "detail")

    def test_a_difference_fails_unless_it_is_listed(self):
        self.assertTrue(self.verdict([]))
        self.assertFalse(self.verdict([self.finding()]))
        self.assertTrue(self.verdict([self.finding()], ["llama/* file 0.1 reason"]))

    def test_a_line_covers_its_cases_kinds_names_and_sizes_alone(self):
        for line in ("mamba/* file any r", "llama/* stdout any r", "llama/* file:*.at_* any r", "llama/* file 0.01 r"):
            self.assertFalse(self.verdict([self.finding()], [line]), line)
        self.assertFalse(self.verdict([self.finding(), self.finding("stdout")], ["llama/* file any r"]))

    def test_nothing_excuses_a_failure_of_ours(self):
        self.assertFalse(self.verdict([self.finding("case")], ["* file,stdout,exit any r"], bound=math.inf))

    def test_a_bound_is_for_numbers(self):
        self.assertTrue(self.verdict([self.finding(size=1e-6)], bound=1e-4))
        self.assertFalse(self.verdict([self.finding("exit", size=0.0)], bound=1e-4))

    def test_exit_codes(self):
        def kinds(upstream, ours, fails=False):
            flag_set = driver.FlagSet("x", "", fails=fails)
            runs = [driver.Run(code, "", "", set()) for code in (upstream, ours)]
            return [f.kind for f in driver.compare_runs(flag_set, Path("."), *runs, {})]

        self.assertEqual(kinds(0, 0), [])
        self.assertEqual(kinds(1, 1, fails=True), [])
        self.assertEqual(kinds(-6, 0), ["exit"])
        self.assertEqual(kinds(0, 1), ["case"])
        self.assertEqual(kinds(-6, -6), ["case"])
        self.assertEqual(kinds(0, 0, fails=True), ["case"])

    def test_a_malformed_list_is_refused(self):
        for line in ("llama/* file any", "llama/* colour any reason", "llama/* file much reason"):
            with self.assertRaises(ValueError, msg=line):
                driver.AllowLine(1, line)


if __name__ == "__main__":
    unittest.main()
