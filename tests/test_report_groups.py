import numpy as np
import pytest

from keras_alexnet.report import groups
from keras_alexnet.report.groups import group_of, grouped_order

KNOWN = {
    "n01440764": "fishes",  # tench
    "n02655020": "fishes",  # puffer
    "n01641577": "amphibians",  # bullfrog
    "n01698640": "turtles, lizards and crocodiles",  # American alligator
    "n01742172": "snakes",  # boa constrictor
    "n01514668": "birds",  # cock
    "n02012849": "birds",  # crane
    "n02056570": "birds",  # king penguin
    "n02279972": "insects",  # monarch
    "n01774750": "spiders and their kin",  # tarantula
    "n01983481": "other invertebrates",  # American lobster
    "n02317335": "other invertebrates",  # starfish
    "n02099601": "dogs",  # golden retriever
    "n02113978": "dogs",  # Mexican hairless
    "n02114367": "wolves, foxes and hyenas",  # timber wolf
    "n02123045": "cats",  # tabby
    "n02129604": "cats",  # tiger
    "n02510455": "bears, weasels and pandas",  # giant panda
    "n02364673": "rabbits and rodents",  # guinea pig
    "n02391049": "hoofed mammals",  # zebra
    "n02480855": "apes, monkeys and lemurs",  # gorilla
    "n02504458": "other mammals",  # African elephant
    "n02066245": "other mammals",  # grey whale
    "n10148035": "people",  # groom
    "n12998815": "plants and fungi",  # agaric
    "n07753592": "fruit and vegetables",  # banana
    "n07873807": "food and drink",  # pizza
    "n04398044": "kitchenware",  # teapot
    "n02823428": "bags, bottles and boxes",  # beer bottle
    "n04070727": "household appliances",  # refrigerator
    "n04099969": "furniture, fittings and lamps",  # rocking chair
    "n04033995": "fabrics and linen",  # quilt
    "n03594734": "clothing and accessories",  # jean
    "n04376876": "medicine and personal care",  # syringe
    "n06794110": "print, signs and stationery",  # street sign
    "n03793489": "electronic devices",  # computer mouse
    "n02708093": "clocks, optics and measuring",  # analog clock
    "n04536866": "musical instruments",  # violin
    "n04254680": "sports, games and toys",  # soccer ball
    "n03481172": "tools and machines",  # hammer
    "n03126707": "tools and machines",  # crane
    "n04090263": "weapons and armour",  # rifle
    "n02701002": "motor vehicles",  # ambulance
    "n04335435": "trains, cycles and carts",  # streetcar
    "n04147183": "boats and ships",  # schooner
    "n02690373": "aircraft and spacecraft",  # airliner
    "n02980441": "buildings and structures",  # castle
    "n09472597": "landscapes and nature",  # volcano
}
OWN = ["cats", "<b>n01440764</b>", "", "n1", "caf\udce9"]


def every_id():
    return sorted(groups._GROUP_OF)


def test_well_known_classes_are_in_their_groups():
    assert {class_id: group_of(class_id) for class_id in KNOWN} == KNOWN


def test_each_of_the_1000_classes_is_in_one_group():
    listed = [f"n{number}" for _, numbers in groups._GROUPS for number in numbers]
    assert len(listed) == len(set(listed)) == len(every_id()) == 1000
    assert all(len(class_id) == 9 and class_id[1:].isdecimal() for class_id in listed)
    # The sum of all offsets, so that none is mistyped.
    assert sum(int(class_id[1:]) for class_id in listed) == 3_481_996_750
    names = {group_of(class_id) for class_id in listed}
    assert names == set(KNOWN.values())
    assert len(names) == len(groups._GROUPS) == 40
    assert all(name == name.strip() and name != "other" for name in names)


@pytest.mark.parametrize("class_id", [*OWN, "01440764", "n01440765", "n014407640", " n01440764", "N01440764"])
def test_other_ids_have_none(class_id):
    assert group_of(class_id) is None


def check(class_ids):
    """That groups are together and named right; returns the order and the groups."""
    order, found = grouped_order(class_ids)
    assert sorted(order) == list(range(len(class_ids)))
    assert all(type(label) is int for label in order)
    behind = 0
    for name, first, end in found:
        assert first == behind < end
        behind = end
        assert {group_of(class_ids[label]) or "other" for label in order[first:end]} == {name}
    assert behind == (len(class_ids) if found else 0)
    assert len({name for name, _, _ in found}) == len(found)
    return order, found


def test_groups_are_together_in_one_order_of_classes():
    order, found = check(every_id())
    # KNOWN has them in the same order.
    assert [name for name, _, _ in found] == list(dict.fromkeys(KNOWN.values()))
    for _, first, end in found:
        assert order[first:end] == sorted(order[first:end])


def test_the_order_of_the_labels_does_not_matter_to_classes_that_have_groups():
    ids = every_id()
    expected = [ids[label] for label in check(ids)[0]]
    mixed = [ids[label] for label in np.random.default_rng(0).permutation(1000)]
    order, found = check(mixed)
    assert [mixed[label] for label in order] == expected
    assert found == grouped_order(ids)[1]


def test_classes_without_a_group_keep_their_order_at_the_end():
    class_ids = ["zebra", "n02123045", "dog", "n01440764", "n02099601", "", "n01443537"]
    order, found = check(class_ids)
    assert order == [3, 6, 4, 1, 0, 2, 5]
    assert found == [("fishes", 0, 2), ("dogs", 2, 3), ("cats", 3, 4), ("other", 4, 7)]


def test_a_part_of_imagenet_has_its_groups_alone():
    assert grouped_order(["n02099601", "n02085620"]) == ([1, 0], [("dogs", 0, 2)])


@pytest.mark.parametrize("class_ids", [[], ["b", "a"], OWN])
def test_without_any_group_labels_stay_as_they_are(class_ids):
    assert grouped_order(class_ids) == (list(range(len(class_ids))), [])
