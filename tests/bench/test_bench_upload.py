import pytest

from budgetloader.bench.child import Child


@pytest.mark.long
@pytest.mark.parametrize("uploaded", [False, True])
def test_an_epoch_is_measured_with_and_without_the_uploader(beton, uploaded):
    arguments = {"uploaded": uploaded, "beton": str(beton), "batch_size": 8, "image_size": 16}
    with Child(
        "budgetloader.bench.upload:measure_part", name="native", arguments=arguments
    ) as child:  # which stays patched
        rates = child.ask()
    assert rates["second"] > 0 and rates["core second"] > 0
    assert (rates["sending"] > 0) == uploaded
