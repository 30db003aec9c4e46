"""Pipelines asked step by step must answer as scikit-learn itself does, to the bit."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.datasets import load_breast_cancer, load_diabetes, load_wine
from sklearn.linear_model import LinearRegression, LogisticRegression, RidgeClassifier, SGDClassifier, TweedieRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import MinMaxScaler, StandardScaler
from sklearn.svm import SVC

from headgate_server import scikit_learn


class Doubled(LinearRegression):
    """A user's own class, which answers otherwise than its base."""

    def predict(self, X):  # noqa: N803 - scikit-learn's name
        return 2 * super().predict(X)


def trained(model, source):
    features, target = source(return_X_y=True)
    return make_pipeline(*model).fit(features, target), features


PIPELINES = {
    "three classes": ((StandardScaler(), LogisticRegression()), load_wine),
    "two classes": ((StandardScaler(), LogisticRegression()), load_breast_cancer),
    "only centred": ((StandardScaler(with_std=False), SGDClassifier(random_state=0)), load_wine),
    "only scaled": ((StandardScaler(with_mean=False), RidgeClassifier()), load_wine),
    "regressor": ((StandardScaler(), LinearRegression()), load_diabetes),
    "another scaler": ((MinMaxScaler(), LinearRegression()), load_diabetes),
    "a link function": ((StandardScaler(), TweedieRegressor(power=0, link="log")), load_diabetes),
    "not linear": ((StandardScaler(), SVC()), load_wine),
    "a class of the user": ((StandardScaler(), Doubled()), load_diabetes),
    "alone": ((LogisticRegression(max_iter=5000),), load_wine),
}


@pytest.mark.parametrize("name", PIPELINES)
@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.int64])
@pytest.mark.filterwarnings("ignore")
def test_every_pipeline_answers_as_scikit_learn(name, dtype):
    model, features = trained(*PIPELINES[name])
    array = features.astype(dtype)
    quick, reference = scikit_learn.array_predictor(model, "predict")(array), model.predict(array)
    assert quick.dtype == reference.dtype
    assert np.array_equal(quick, reference)
    assert np.array_equal(scikit_learn.array_predictor(model, "predict")(array[:1]), model.predict(array[:1]))


def test_numbers_that_are_none_are_refused_as_scikit_learn_refuses_them():
    model, features = trained((StandardScaler(), LogisticRegression()), load_wine)
    features[0, 0] = np.nan
    with pytest.raises(ValueError, match="NaN"):
        scikit_learn.array_predictor(model, "predict")(features)


def test_the_model_is_not_changed_by_being_asked():
    model, features = trained((StandardScaler(), LogisticRegression()), load_wine)
    before = features.copy()
    scikit_learn.array_predictor(model, "predict")(features)
    assert np.array_equal(features, before)
