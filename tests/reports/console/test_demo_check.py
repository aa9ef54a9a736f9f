"""What `kat demo-check` prints, word for word."""

from kat.demo.check import DemoCheck
from kat.reports.console.demo_check import demo_check_lines


def test_lines():
    check = DemoCheck(
        topics=("sourdough baking", "chess"),
        sizes=(1200, 30),
        mean_weights=(0.5, 2.0),
        rank_correlation=0.98765,
        ess_share=0.4321,
        openings=1230,
    )
    assert demo_check_lines(check) == [
        "",
        "topic                        openings  mean weight",
        "--------------------------------------------------",
        "sourdough baking                1,200        0.500  ▇▇▇▇▇▇",
        "chess                              30        2.000  ▇▇▇▇▇▇▇▇▇▇▇▇▇▇▇▇▇▇▇▇▇▇▇▇",
        "--------------------------------------------------",
        "rank correlation of mean topic weight with 1 / topic size: 0.988 (at least 0.8 expected)",
        "effective sample size: 43.2% of 1,230 openings",
    ]
