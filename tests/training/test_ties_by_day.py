"""A run with split.ties=day, from a file of ratings to its predictions."""

import polars as pl

from tests.helpers.runs import FAST, run_here

START, DAY, SHIFT = 889_747_200, 86_400, 5 * 3600
# Hours after START at which a user rates, three sessions of several ratings each; the second one passes midnight.
HOURS = (8, 8.1, 8.2, 8.3, 47.9, 47.99, 48.0, 48.1, 103, 103, 103.5, 104)


def test_a_run_shows_no_rating_of_the_targets_day(tmp_path):
    rows = [
        (user, movie, 1 + (user + movie) % 5, START + user * SHIFT + int(3600 * hour), f"Movie {movie} (1990)", "Drama")
        for user in range(6)
        for movie, hour in enumerate(HOURS)
    ]
    names = ("user", "movie", "rating", "timestamp", "title", "genres")
    table = pl.DataFrame(rows, schema=names, orient="row")
    table.write_csv(tmp_path / "ratings.csv")
    data = ("data=csv", f"data.path={tmp_path}/ratings.csv", "split.ties=day", "split.test_ratio=0.5")
    summary = run_here(tmp_path / "run", *FAST, *data, "prompt.max_tokens=1000", "evaluation.max_users=null")
    assert summary["audit"]["leaks"]["same_day"] == 0
    days = (pl.col("timestamp") // DAY).alias("day")
    expected = {
        (user, movie): sum(earlier < day for earlier in of_user["day"])
        for (user,), of_user in table.with_columns(days).group_by("user")
        for movie, day in of_user.select("movie", "day").rows()
    }
    predicted = pl.read_parquet(tmp_path / "run" / "predictions" / "test.parquet")
    assert {(user, movie): used for user, movie, used in predicted["user", "movie", "history_used"].rows()} == {
        target: expected[target] for target in predicted["user", "movie"].rows()
    }
    assert predicted["history_used"].n_unique() > 2
