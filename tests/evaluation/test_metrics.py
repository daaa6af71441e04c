from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn import metrics as sk

from cvtune.evaluation.metrics import positive_class, score
from cvtune.evaluation.predictions import Predictions


def said(truth: list[int], labels: list[int], classes: tuple[str, ...], sure: float = 0.75) -> Predictions:
    """Predictions with `sure` on the label and the rest shared by the others."""
    probabilities = np.full((len(truth), len(classes)), (1 - sure) / (len(classes) - 1), np.float32)
    probabilities[np.arange(len(truth)), labels] = sure
    paths = tuple(str(i) for i in range(len(truth)))
    return Predictions(paths, np.array(truth, np.int64), probabilities, classes)


def test_two_classes_counted_by_hand() -> None:
    metrics = score(said([0] * 8 + [1] * 4, [0] * 7 + [1] + [1] * 3 + [0], ("functional", "defective")))
    assert (metrics.n, metrics.accuracy.k) == (12, 10)
    assert metrics.confusion == ((7, 1), (1, 3))
    assert metrics.balanced_accuracy == pytest.approx((7 / 8 + 3 / 4) / 2)
    assert metrics.positive == "defective"
    assert (str(metrics.sensitivity), str(metrics.specificity)) == ("3 of 4", "7 of 8")
    assert str(metrics.per_class[0].precision) == "7 of 8"
    assert metrics.auroc == pytest.approx((7 / 8 + 3 / 4) / 2)


@pytest.mark.parametrize(
    ("classes", "positive"),
    [
        (("ok", "scratch"), "scratch"),
        (("defective", "functional"), "defective"),
        (("Not OK", "OK"), "Not OK"),
        (("NORMAL", "PNEUMONIA"), "PNEUMONIA"),
        (("crack", "defect-free"), "crack"),
        (("i.O.", "n.i.O."), "n.i.O."),
        (("abnormal", "normal"), "abnormal"),
        (("cat", "dog"), "dog"),
        (("good", "fine"), "fine"),
    ],
)
def test_the_positive_class_is_the_one_looked_for(classes: tuple[str, ...], positive: str) -> None:
    assert positive_class(classes) == positive


def test_json_has_the_names_scripts_rely_on_and_no_nan() -> None:
    value = score(said([0, 0, 1], [0, 1, 1], ("a", "b", "c"))).to_json()
    json.dumps(value, allow_nan=False)
    assert value["n"] == 3
    assert value["right"] == 2
    assert value["accuracy"] == pytest.approx(2 / 3)
    assert len(value["accuracy_interval"]) == len(value["balanced_accuracy_interval"]) == 2
    assert (value["positive"], value["sensitivity"], value["specificity"]) == (None, None, None)
    assert value["per_class"]["c"]["recall"]["value"] is None  # none of it in the folder
    assert value["per_class"]["c"]["auroc"] is None
    assert value["per_class"]["c"]["f1"] is None
    assert set(value) >= {"balanced_accuracy", "macro_f1", "auroc", "log_loss", "confusion"}


def test_one_class_in_the_folder_leaves_the_undefined_out() -> None:
    metrics = score(said([1, 1], [1, 0], ("ok", "bad")))
    assert metrics.balanced_accuracy == 0.5
    assert metrics.auroc is None
    assert metrics.specificity is not None
    assert metrics.specificity.value is None


def test_certainly_wrong_costs_a_finite_log_loss() -> None:
    assert said([0], [1], ("a", "b"), sure=1.0).log_loss == pytest.approx(15.94, abs=0.01)


@given(st.integers(2, 5), st.integers(0, 2**32 - 1))
def test_agrees_with_scikit_learn(k: int, seed: int) -> None:
    generator = np.random.default_rng(seed)
    truth = np.concatenate([np.arange(k), generator.integers(0, k, 40)]).astype(np.int64)
    probabilities = generator.dirichlet(np.ones(k), len(truth)).astype(np.float32)
    classes = tuple(f"class {i}" for i in range(k))
    predictions = Predictions(tuple(map(str, range(len(truth)))), truth, probabilities, classes)
    metrics = score(predictions)
    assert metrics.accuracy.value == pytest.approx(sk.accuracy_score(truth, predictions.labels))
    assert metrics.balanced_accuracy == pytest.approx(sk.balanced_accuracy_score(truth, predictions.labels))
    assert metrics.log_loss == pytest.approx(sk.log_loss(truth, probabilities, labels=range(k)), rel=1e-5)
    expected = probabilities[:, 1] if k == 2 else probabilities
    assert metrics.auroc == pytest.approx(sk.roc_auc_score(truth, expected, multi_class="ovr"), abs=1e-6)
    low, high = metrics.balanced_accuracy_interval
    assert low <= metrics.balanced_accuracy <= high
