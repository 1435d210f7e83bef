from __future__ import annotations

import re

from anabranch.catalogue.classes import imagenet_1k


def test_there_are_a_thousand_classes_in_the_order_of_their_wordnet_ids() -> None:
    ids = [wordnet_id for wordnet_id, _ in imagenet_1k()]
    assert len(ids) == 1000
    assert all(re.fullmatch(r"n\d{8}", each) for each in ids)
    assert ids == sorted(set(ids))


def test_no_two_classes_share_a_name_in_any_case() -> None:
    assert len({name.lower() for _, name in imagenet_1k()}) == 1000


def test_known_outputs_stand_where_every_zoo_has_them() -> None:
    """Indices as torchvision's and timm's documents quote them."""
    classes = imagenet_1k()
    known = {
        0: "tench",
        1: "goldfish",
        151: "Chihuahua",
        207: "golden retriever",
        285: "Egyptian cat",
        999: "toilet tissue",
    }
    assert {at: classes[at][1] for at in known} == known
    assert classes[0][0] == "n01440764"
    assert classes[999][0] == "n15075141"


def test_homonyms_are_told_apart() -> None:
    names = dict(imagenet_1k())
    assert (names["n02012849"], names["n03126707"]) == ("crane (bird)", "crane (machine)")
    assert (names["n03710637"], names["n03710721"]) == ("maillot (tights)", "maillot (bathing suit)")
    assert (names["n02113186"], names["n02963159"]) == ("Cardigan (dog)", "cardigan (jacket)")
