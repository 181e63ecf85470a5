"""The adapter to lm-evaluation-harness, with tasks of the shipped sample; skipped where it is not
installed.
"""

import types

import pytest

from hlm.evals import choice, harness
from hlm.evals.measure import mean
from hlm.evals.shelf import SAMPLES, Missing, Shelf
from hlm.evals.suite import Setting, named
from tests.unit.minute_models import language_model

pytestmark = pytest.mark.filterwarnings("ignore")  # of what the harness imports

PIQA = f"""
task: sample_piqa
dataset_path: json
dataset_kwargs:
  data_files:
    validation: {SAMPLES}/eval/piqa_val.jsonl
output_type: multiple_choice
validation_split: validation
doc_to_text: "Question: {{{{goal}}}}\\nAnswer:"
doc_to_target: label
doc_to_choice: "{{{{[sol1, sol2]}}}}"
metric_list:
  - metric: acc
  - metric: acc_bytes
"""
LAMBADA = f"""
task: sample_rolling
dataset_path: json
dataset_kwargs:
  data_files:
    test: {SAMPLES}/eval/lambada_openai_test.jsonl
output_type: loglikelihood_rolling
test_split: test
doc_to_text: ""
doc_to_target: "{{{{text}}}}"
metric_list:
  - metric: bits_per_byte
"""


def request(*args):
    return types.SimpleNamespace(args=args)


@pytest.fixture
def model():
    pytest.importorskip("lm_eval")
    from hlm.evals.harness_model import HarnessModel

    return HarnessModel(language_model("words"))


def test_log_likelihoods_are_ours(model):
    lm = language_model("words")
    got = model.loglikelihood(
        [request("The ", "whale"), request("", "The "), request("The whale", "")]
    )
    both, first = (lm.score(text, complete=False)[0].nats for text in ("The whale", "The "))
    assert got[0][0] == pytest.approx(first - both, rel=1e-4)
    assert got[1][0] == pytest.approx(-first)
    assert got[2] == (0.0, True)
    long = "The old whale swims. " * 20
    assert model.loglikelihood_rolling([request(long)]) == [
        pytest.approx(-lm.score(long, complete=False)[0].nats)
    ]


def test_answers_end_where_the_task_says(model):
    lm = language_model("words")
    whole = lm.generate("The ", 8)[0]
    stop = whole[3:4].decode("latin-1")
    settings = {"until": [stop] if whole[3] < 128 else [], "max_gen_toks": 2}
    got = model.generate_until([request("The ", settings), request("A ", settings)] * 2)
    assert got[:2] == got[2:]
    expected = lm.generate(["The ", "A "], 8, stop=settings["until"])
    assert got[:2] == [text.decode(errors="replace") for text in expected]


def test_a_prompt_without_room_is_cut_from_its_beginning(model):
    lm = language_model("words")
    long = "The old whale swims. " * 40
    assert lm.generate(long, 4)[0].ended == "full"
    (got,) = model.generate_until([request(long, {"until": [], "max_gen_toks": 1})])
    short = long.encode()
    while not (made := lm.generate(short, 4)[0]) and made.ended == "full":
        short = short[(len(short) + 1) // 2 :]
    assert got == made.decode(errors="replace") != ""


def test_a_task_gives_what_our_choice_gives(model, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_DATASETS_OFFLINE", "1")
    (tmp_path / "piqa.yaml").write_text(PIQA)
    (tmp_path / "rolling.yaml").write_text(LAMBADA)
    setting = Setting(
        (), (), Shelf(SAMPLES), tasks=("sample_piqa", "sample_rolling"), task_path=str(tmp_path)
    )
    lm = language_model("words")
    grid = named("lm_eval").evaluate(lm, setting).grids["lm_eval"]
    items = choice.read("piqa", Shelf(SAMPLES), None, 0)
    judged = choice.judge(lm, items)
    for metric, ours in (("acc", judged.right), ("acc_bytes", judged.right_per_byte)):
        assert list(grid["sample_piqa"][metric].total) == list(ours), metric
    texts = [row["text"].encode() for row in Shelf(SAMPLES).rows("eval/lambada_openai_test.jsonl")]
    scores = lm.score(texts, complete=False)
    bits = sum(s.bits_per_byte * s.nbytes for s in scores) / sum(s.nbytes for s in scores)
    assert grid["sample_rolling"]["bits_per_byte"].value == pytest.approx(bits, rel=1e-6)


def test_metrics_that_are_means_keep_their_questions():
    samples = [{"acc": a, "word": (1.0, 2), "filter": "none"} for a in (1.0, 0.0, 1.0)]
    samples += [{"acc": 0.0, "filter": "strict"}] * 3
    values = {"alias": "x", "acc,none": 2 / 3, "acc_stderr,none": 0.3, "word,none": 5.0}
    got = harness.measures(values | {"acc,strict": 0.0}, samples)
    assert set(got) == {"acc", "word", "acc (strict)"}
    assert list(got["acc"].total) == [1, 0, 1]
    assert got["acc"].error == mean([1.0, 0.0, 1.0]).error
    assert (got["word"].value, got["word"].units) == (5.0, 1)
    wrong = harness.measures({"acc,none": 0.9}, samples)
    assert (wrong["acc"].value, wrong["acc"].units) == (0.9, 1)


def test_without_the_harness_or_tasks_it_is_left_out(monkeypatch):
    setting = Setting((), (), Shelf(None))
    with pytest.raises(Missing):  # no task, or no harness
        named("lm_eval").evaluate(language_model("words"), setting)
    monkeypatch.setattr(harness.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(Missing, match=r"pip install -e '.\[lm_eval\]'"):
        named("lm_eval").evaluate(language_model("words"), setting)
