"""The explorers answer what is chosen in them."""

import matplotlib
import matplotlib.pyplot as plt
import pytest
from test_plots import make_up_results

from helpers.explorers import GridExplorer, PolicyExplorer
from helpers.models import POLICIES, apply_policy, count_parameters, load_classifier

matplotlib.use("Agg")


@pytest.mark.parametrize("policy", POLICIES)
def test_the_policy_explorer_counts_what_the_policy_trains(bert_tiny, policy):
    model = load_classifier(str(bert_tiny))
    explorer = PolicyExplorer(model)
    explorer.policy.value = policy
    trained = count_parameters(apply_policy(model, policy))
    assert explorer.frame.loc["sum"].tolist() == [trained, count_parameters(model, trainable_only=False) - trained]
    assert f"{trained:,}" in explorer.table.value


def test_the_grid_explorer_draws_the_chosen_cell():
    results = make_up_results()
    explorer = GridExplorer(results)
    pictures = {explorer.picture.value}
    for control, value in ((explorer.policy, "bitfit"), (explorer.rate, 3e-5), (explorer.size, 128)):
        control.value = value
        pictures.add(explorer.picture.value)
    assert len(pictures) == 4
    assert f"{results['policies']['bitfit']['cells'][-1]['validation_accuracy']:.3f}" in explorer.message.value
    assert not plt.get_fignums() and repr(explorer) == "GridExplorer('bitfit', 3e-05, 128)"
