"""Random bad input for the front doors, and how much of it."""

import os
import string

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st


def examples(n: int) -> settings:
    """A quarter of n examples; n with MFSPARK_FUZZ=1 in the environment, 100·n new ones with MFSPARK_FUZZ=100."""
    factor = int(os.environ.get("MFSPARK_FUZZ", "0"))
    return settings(
        max_examples=n * factor if factor else -(-n // 4),
        derandomize=factor <= 1,
        deadline=None,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture, HealthCheck.data_too_large],
    )


def toml_string(text: str) -> str:
    """Any text as a TOML string, for a file or a value of --set."""
    return '"' + "".join(f"\\U{ord(character):08X}" for character in text) + '"'


any_text = st.text(st.characters(), max_size=20)
# What the shell hands over where an argument is no UTF-8.
any_argument = st.text(st.characters(categories=["L", "N", "P", "S", "Z", "Cc", "Cs"]), max_size=20)

NUMBERS = [
    "0", "-0.0", "1", "-1", "2", "0.5", "1e-320", "1e308", "1e999", "-1e999", "inf", "-inf", "nan", "2147483647",
    "2147483648", "9223372036854775807", "9223372036854775808", "-9223372036854775809", "9" * 5000,
    "0x" + "f" * 5000, "1_0", "0b1", "true", "false", "1979-05-27", "07:32:00", "1979-05-27T07:32:00Z",
]  # fmt: skip
NESTED = ["[" * 3000, "{a=" * 3000, "[" * 50 + "]" * 50, "{a=1}", "[]", "[1, 'a']", ".".join("a" * 3000)]
TOKENS = ["[", "]", "[[", "]]", "{", "}", "=", ".", ",", "#", "'", '"', "'''", '"""', "\\", "\n", "\r", "\x00", "\x7f"]

SECTIONS = ["input", "output", "columns", "split", "train", "sgd", "recommend"]
KEYS = [
    "path", "duplicates", "max_rejected_share", "user", "item", "rating", "timestamp", "weight", "fold",
    "method", "holdout", "holdout_items", "holdout_fold",
    "validation", "seed", "algorithm", "rank", "max_iter", "reg_param", "tol", "patience", "num_user_blocks", "solver",
    "cg_steps", "alpha", "unobserved_weight", "biases", "reg_scaling", "schedule", "learning_rate", "n", "drop_seen",
]  # fmt: skip
WORDS = ["als", "sgd", "cg", "last", "mean", "count", "none", "user_id", "ratings.parquet", "self", "__init__"]

SETTINGS = {
    "input.duplicates": ["keep_all", "last", "mean", "max", "sum", "error"],
    "split.holdout": ["0", "0.3", "0.9"],
    "split.validation": ["0", "0.09"],
    "split.seed": ["0", "-9223372036854775808", "9223372036854775807"],
    "train.algorithm": ["als", "sgd"],
    "train.rank": ["1", "2", "17", "64"],
    "train.max_iter": ["0", "1", "3"],
    "train.reg_param": ["0", "5e-324", "1e-30", "0.1", "1e30", "1e308"],
    "train.user_reg_param": ["0", "1e-320", "1e308"],
    "train.item_reg_param": ["0", "1e-320", "1e308"],
    "train.bias_reg_param": ["0", "1e308"],
    "train.seed": ["0", "-9223372036854775808", "9223372036854775807"],
    "train.num_user_blocks": ["0", "1", "3", "2147483647"],
    "train.num_item_blocks": ["0", "1", "3", "2147483647"],
    "train.tol": ["0", "1e-300", "1e308"],
    "train.patience": ["0", "1", "2147483647"],
    "train.solver": ["cholesky", "cg", "subspace"],
    "train.cg_steps": ["1", "1000"],
    "train.implicit_prefs": ["true", "false"],
    "train.alpha": ["0", "1e-320", "40", "1e308"],
    "train.confidence_offset": ["0", "1e308"],
    "train.unobserved_weight": ["0", "1e-320", "0.1", "1e308"],
    "train.nonnegative": ["true", "false"],
    "train.biases": ["true", "false"],
    "train.reg_scaling": ["count", "none", "0", "0.5", "1e308"],
    "sgd.num_blocks": ["1", "3", "2147483647"],
    "sgd.learning_rate": ["5e-324", "0.02", "1e30", "1e308"],
    "sgd.schedule": ["constant", "inverse", "bold", "adagrad"],
    "sgd.decay": ["0", "1e308"],
    "recommend.n": ["1", "10", "2147483647"],
    "recommend.drop_seen": ["true", "false"],
}
"""Values that are allowed, the ends of their ranges among them."""

settings_in_range = st.sampled_from(sorted(SETTINGS)).flatmap(
    lambda key: st.sampled_from(SETTINGS[key]).map(lambda value: f"{key}={value}")
)

values = st.one_of(
    st.sampled_from([*NUMBERS, *NESTED]),
    st.sampled_from(WORDS).map(toml_string),
    any_text.map(toml_string),
    st.floats().map(repr),
    st.integers().map(str),
    st.lists(st.sampled_from([*NUMBERS, *TOKENS]), max_size=5).map("".join),
)
keys = st.one_of(st.sampled_from(KEYS), st.sampled_from([*SECTIONS, *WORDS]), any_text.map(toml_string))
sections = st.one_of(st.sampled_from(SECTIONS), keys)


@st.composite
def toml_texts(draw: st.DrawFn) -> str:
    """A configuration with sections, keys and values at random, right ones among them."""
    lines = ['input.path = "a"', 'output.path = "b"'] if draw(st.booleans()) else []
    for section in draw(st.lists(sections, max_size=4)):
        brackets = draw(st.sampled_from(["[{}]", "[{}]", "[[{}]]", "{} = 1", "[a.{}]"]))
        lines.append(brackets.format(section))
        lines += [f"{key} = {value}" for key, value in draw(st.lists(st.tuples(keys, values), max_size=4))]
    return "\n".join(lines)


@st.composite
def damaged(draw: st.DrawFn, content: bytes) -> bytes:
    """The content cut off, with bytes changed, put in, taken out or repeated, once or several times."""
    for _ in range(draw(st.integers(1, 3))):
        start, end = sorted(draw(st.tuples(*[st.integers(0, len(content))] * 2)))
        how = draw(st.sampled_from(["cut", "flip", "flip", "flip", "zero", "insert", "remove", "repeat"]))
        if how == "cut":
            content = content[:start]
        elif how == "flip" and start < len(content):
            flipped = content[start] ^ draw(st.integers(1, 255))
            content = content[:start] + bytes([flipped]) + content[start + 1 :]
        elif how == "zero":
            content = content[:start] + bytes(end - start) + content[end:]
        elif how == "insert":
            content = content[:start] + draw(st.binary(max_size=20)) + content[start:]
        elif how == "remove":
            content = content[:start] + content[end:]
        elif how == "repeat":
            content = content[:end] + content[start:end] + content[end:]
    return content


@st.composite
def overrides(draw: st.DrawFn) -> str:
    """The value of a --set."""
    how = draw(st.sampled_from(["in range", "in range", "right key", "any", "text"]))
    if how == "in range":
        return draw(settings_in_range)
    if how == "right key":
        return f"{draw(st.sampled_from(sorted(SETTINGS)))}={draw(values)}"
    return (
        f"{draw(sections)}.{draw(keys)}={draw(st.one_of(values, any_argument))}" if how == "any" else draw(any_argument)
    )


flags = st.one_of(
    st.sampled_from(["--config", "--set", "--run-id", "--resume", "--overwrite", "--res", "--", "-", "--help", "-x"]),
    st.sampled_from(["--run-id=r", "--set=train.rank=3", "--resume=1", "--config=", "--run-id="]),
    overrides().map(lambda override: f"--set={override}"),
    any_argument,
)

run_ids = st.one_of(
    st.sampled_from(
        [
            "bad", "good", "good.next", "good.old", "..", ".", "", "../x", "../../out/runs/good", "good/..", "a/b",
            "good\n", "a\x00", "-x", "x" * 128, "x" * 129, "CURRENT", "manifest.json", "é", "a b", "a\\b", "*", "a..",
        ]
    ),
    st.text(string.ascii_letters + "._-/", min_size=1, max_size=8),
    any_text,
)  # fmt: skip
