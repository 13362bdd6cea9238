"""What the study of two objects trains on and tests: nothing that is held out is seen."""

from evidence import multimodal_alignment as alignment
from llmanac.core.rng import numpy_generator
from llmanac.data.pictures import scenes as s


def combinations(item: s.PairScene) -> set[tuple[str, str]]:
    return set(zip(item.colors, item.shapes, strict=True))


def test_scenes_of_two_objects_hold_nothing_that_is_held_out_or_tested():
    seen, held = s.split()
    trained, never = ({(scene.color, scene.shape) for scene in side} for side in (seen, held))
    kept = alignment.kept_pairs()
    tested = alignment.two_objects(64, numpy_generator(0, "pairs", "test"), besides=kept)
    assert len(kept) == 600 and len({item.caption for item in tested}) == 64
    assert never and all(combinations(item) <= trained for item in kept)
    captions = {item.caption for item in kept}
    for item in tested:
        said = alignment.opposite(item.swapped("objects"))
        assert item.caption not in captions and said.caption not in captions
        other = alignment.replaced(item)
        assert combinations(other).isdisjoint(combinations(item)) and other.relation == item.relation
        assert all(combinations(wrong) <= trained for wrong in (other, item.swapped("colors"), item.swapped("objects")))


def test_pairs_drawn_without_care_do_hold_them():
    seen, _ = s.split()
    trained = {(scene.color, scene.shape) for scene in seen}
    generator = numpy_generator(0, "pairs")
    held = sum(not combinations(s.random_pair(generator)) <= trained for _ in range(600))
    assert held > 100
