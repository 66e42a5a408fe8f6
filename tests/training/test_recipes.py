"""What there is to train of a config: one place chooses, and both papers answer the same questions."""

import pytest

from tfbrats import config_file
from tfbrats.training import recipes


def questions(recipe):
    return {name for name in dir(recipe) if not name.startswith("_")}


@pytest.mark.parametrize(
    ("name", "regions", "kind"),
    [
        ("cun.yaml", [""], recipes.SliceRecipe),
        ("bfcn.yaml", [""], recipes.SliceRecipe),
        ("msm.yaml", ["WT", "TC", "ET"], recipes.PatchRecipe),
    ],
)
def test_each_network_of_a_config_has_its_papers_recipe(name, regions, kind):
    config = config_file.load(name)
    chosen = [recipes.recipe_for(config, None, region) for region in config.regions]
    assert [type(recipe) for recipe in chosen] == [kind] * len(regions)
    assert [recipe.region for recipe in chosen] == regions


def test_both_papers_recipes_answer_the_same_questions():
    slices, patches = (
        recipes.recipe_for(config_file.load(name), None, "WT") for name in ("cun.yaml", "msm.yaml")
    )
    assert questions(slices) == questions(patches)


def test_the_config_says_how_many_examples_a_case_gives_where_it_can():
    assert config_file.load("cun.yaml").examples_per_case is None
    config = config_file.load("msm.yaml", ["sampling.patches_per_case=7"])
    assert config.examples_per_case == 7
