from training.benchmark.score import ScoreBenchConfig, run_score_bench


def test_both_ways_score_the_same() -> None:
    """The bench itself asserts it, to 1e-12."""
    table = run_score_bench(ScoreBenchConfig(frames=1, boxes=40, rounds=1))
    assert table.startswith("40 frames, 40 detections each")
    assert float(table.splitlines()[-1].split()[-1]) > 0
