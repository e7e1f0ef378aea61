import math
import random
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from databases import PASSWORD, free_port, postgres, s3

from ecg_llm import privacy
from ecg_llm.contracts import EgressError, MissingPackage, StepError, UsageError
from ecg_llm.retrieve import arrays, stores
from ecg_llm.retrieve import lance as embedded
from ecg_llm.retrieve import postgres as server_side
from ecg_llm.retrieve.stores import Entry, Store, hosts_of, open_store

NAME = "passages-0123456789abcdef"
OLD = "passages-fedcba9876543210"
DIMENSION = 16
WORDS = ("st", "pr", "qt", "rr", "wave", "segment", "lead", "axis", "block", "beat", "herzkamm")
QUERIES = (
    {"st": 1.0}, {"pr": 1.0, "wave": 1.0}, {"qt": 0.3, "lead": 2.5, "zebra": 9.0},
    dict.fromkeys(WORDS, 0.7), {"zebra": 1.0}, {}, {"\x00": 1.0, "\ud800": 1.0, "'; --": 1.0},
    {"st": 0.0, "axis": 1.0},
)  # fmt: skip


def entry(key, seed, *, text="", terms=None):
    chance = random.Random(seed)
    vector = np.random.default_rng(seed).standard_normal(DIMENSION).astype(np.float32)
    if terms is None:
        terms = chance.choices(WORDS, k=chance.randrange(20))
    return Entry(
        key, f"v{seed}", text or " ".join(terms), tuple(terms), vector / np.linalg.norm(vector)
    )


def odd_entries():
    """Entries of all sorts: odd names, no terms, a NUL, two that are equal but for the name."""
    made = [entry(f"p{number:03}", number) for number in range(60)]
    made += [
        entry('it\'s "odd" \\ ♥%_', 71), entry("", 72), entry("no terms", 73, text="…", terms=[]),
        entry("zz twin", 5), entry("aa twin", 5),
    ]  # fmt: skip
    return made


def filled(store, entries, step=7):
    for start in range(0, len(entries), step):
        store.add(entries[start : start + step])
    store.finish()
    return store


def bm25(entries, query, k):
    """Robertson and Zaragoza's formula, written out."""
    counts = [Counter(one.terms) for one in entries]
    mean = sum(len(one.terms) for one in entries) / len(entries)
    scores = {}
    for one, count in zip(entries, counts, strict=True):
        score = 0.0
        for term, weight in query.items():
            holders = sum(term in other for other in counts)
            idf = math.log(1 + (len(entries) - holders + 0.5) / (holders + 0.5))
            norm = 1.2 * (1 - 0.75 + 0.75 * len(one.terms) / mean)
            score += weight * idf * count[term] * 2.2 / (count[term] + norm)
        if score > 0:
            scores[one.passage_id] = score
    best = sorted(scores.items(), key=lambda pair: (-round(pair[1], 6), pair[0]))
    return dict(best[:k])


def cosines(entries, vector, k):
    scores = {one.passage_id: float(one.vector @ vector) for one in entries}
    best = sorted(scores.items(), key=lambda pair: (-round(pair[1], 6), pair[0]))
    return dict(best[:k])


def assert_same(found, wanted):
    assert list(found) == list(wanted)
    assert list(found.values()) == pytest.approx(list(wanted.values()), abs=1e-4)


@pytest.fixture(scope="module")
def server():
    pytest.importorskip("psycopg")
    with postgres() as address, pytest.MonkeyPatch.context() as patch:
        patch.setenv("PGPASSWORD", PASSWORD)
        yield address


@pytest.fixture(scope="module")
def bucket():
    with s3() as variables, pytest.MonkeyPatch.context() as patch:
        for name, value in variables.items():
            patch.setenv(name, value)
        yield "s3://shelf"


DATABASES = iter(range(1000))


@pytest.fixture(params=["folder", pytest.param("bucket", marks=pytest.mark.slow),
                        pytest.param("server", marks=pytest.mark.slow)])  # fmt: skip
def place(request, tmp_path):
    """Give what names an empty store of each kind."""
    if request.param == "folder":
        return "my index #1 100%?"
    base = request.getfixturevalue(request.param)
    if request.param == "bucket":
        return f"{base}/{next(DATABASES)}/index"
    import psycopg

    name = f"study{next(DATABASES)}"
    with psycopg.connect(base, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}")
    return f"{base.rpartition('/')[0]}/{name}"


@pytest.fixture
def made(place, tmp_path):
    """Give a function that opens the same store again and again."""
    return lambda name=NAME: open_store(place, tmp_path, name, DIMENSION)


def test_every_store_finds_what_the_formulae_say(made):
    entries = odd_entries()
    random.Random(3).shuffle(entries)
    store = filled(made(), entries)
    assert isinstance(store, Store)
    assert store.held() == {one.passage_id: one.version for one in entries}
    for query in QUERIES:
        (found,) = store.matching([query], 9)
        assert_same(found, bm25(entries, query, 9))
    vectors = np.stack([entry("q", seed).vector for seed in (5, 101, 102)])
    for found, vector in zip(store.nearest(vectors, 9), vectors, strict=True):
        assert_same(found, cosines(entries, vector, 9))
    assert list(store.nearest(vectors[:1], 3)[0])[:3] == ["aa twin", "p005", "zz twin"]
    assert len(store.nearest(vectors, 1000)[2]) == len(entries)
    assert store.matching([], 5) == []
    assert store.nearest(vectors[:0], 5) == []


def test_twins_tie_to_the_last_digit_and_are_cut_in_the_order_of_their_names(made):
    entries = [entry(f"p{number:02}", 1, terms=["st", "qt", "pr"]) for number in range(40)]
    random.Random(1).shuffle(entries)
    store = filled(made(), [*entries, entry("other", 2)])
    for found in (
        *store.nearest(entries[0].vector[None], 25),
        *store.matching([{"st": 0.37, "qt": 1.9, "pr": 0.11}], 25),
    ):
        assert list(found) == sorted(one.passage_id for one in entries)[:25]
        assert len(set(found.values())) == 1


def test_entries_come_back_as_they_went_in(made):
    entries = odd_entries()
    found = filled(made(), entries).entries([one.passage_id for one in entries] + ["absent"])
    assert set(found) == {one.passage_id for one in entries}
    for one in entries:
        back = found[one.passage_id]
        assert back[:4] == one[:4]
        np.testing.assert_array_equal(back.vector, one.vector)


def test_vectors_come_in_the_order_asked_with_how_crowded_they_lie(made):
    entries = odd_entries()
    asked = [*entries[::3], entry("absent", 500), entries[1]]
    vectors, crowding = filled(made(), entries).vectors([one.passage_id for one in asked])
    every = np.stack([one.vector for one in entries])
    for one, vector, found in zip(asked, vectors, crowding, strict=True):
        if one.passage_id == "absent":
            assert (np.abs(vector).max(), found) == (0, 0)
        else:
            np.testing.assert_array_equal(vector, one.vector)
            cosines = np.sort(every @ one.vector)
            assert found == pytest.approx(cosines[cosines < 0.95][-10:].mean(), abs=1e-5)
    more = [entry(f"new {number}", 200 + number) for number in range(5)]
    filled(made(), more)
    cosines = np.sort(np.stack([one.vector for one in entries + more]) @ entries[1].vector)
    assert made().vectors([entries[1].passage_id])[1][0] == pytest.approx(
        cosines[cosines < 0.95][-10:].mean(), abs=1e-5
    )
    lone = made()
    lone.remove([one.passage_id for one in entries[1:]])
    lone.add([])
    lone.finish()
    assert len(lone.vectors([entries[0].passage_id, "absent"])[0]) == 2


def test_a_changed_store_ends_as_a_new_one_does(made, place, tmp_path):
    entries = odd_entries()
    store = filled(made(), entries[:50])
    store.remove([one.passage_id for one in entries[:9]] + ["absent"])
    # Killed here: another process goes on.
    del store
    store = made()
    assert set(store.held()) == {one.passage_id for one in entries[9:50]}
    filled(store, entries[50:])
    for query in QUERIES:
        assert_same(made().matching([query], 9)[0], bm25(entries[9:], query, 9))
    vector = entries[3].vector
    assert_same(made().nearest(vector[None], 9)[0], cosines(entries[9:], vector, 9))


def test_an_open_store_sees_what_another_one_finished(made, monkeypatch):
    monkeypatch.setattr(embedded, "RENEWED", 0)
    entries = odd_entries()
    serving = filled(made(), entries[:10])
    assert entries[20].passage_id not in serving.entries([entries[20].passage_id])
    filled(made(), entries[10:])
    assert_same(serving.matching([{"st": 1.0}], 9)[0], bm25(entries, {"st": 1.0}, 9))
    assert entries[20].passage_id in serving.entries([entries[20].passage_id])


def test_other_indexes_of_the_kind_are_dropped_and_others_stay(made):
    filled(made(OLD), odd_entries()[:5])
    filled(made("notes-0123456789abcdef"), odd_entries()[:5])
    filled(made(), odd_entries()[:7])
    assert len(made("notes-0123456789abcdef").held()) == 5
    assert made(OLD).held() == {}
    with pytest.raises(StepError, match="ecg-llm index"):
        made(OLD).matching([{"st": 1.0}], 5)


def test_a_store_that_was_never_built_says_what_to_do(made, place, tmp_path):
    store = made()
    assert store.held() == {}
    for search in (
        lambda: store.matching([{"st": 1.0}], 5),
        lambda: store.nearest(np.ones((1, DIMENSION), np.float32), 5),
        lambda: store.entries(["p001"]),
        lambda: store.vectors(["p001"]),
    ):
        with pytest.raises(StepError, match="make it with: ecg-llm index"):
            search()
    assert list(tmp_path.iterdir()) == []


def test_an_empty_and_an_emptied_store_find_nothing(made):
    store = made()
    store.finish()
    vector = np.ones((1, DIMENSION), np.float32)
    assert (store.matching([{"st": 1.0}], 5), store.nearest(vector, 5)) == ([{}], [{}])
    filled(store, [entry("only", 1)])
    assert_same(made().nearest(entry("only", 1).vector[None], 5)[0], {"only": 1.0})
    store.remove(["only"])
    store.finish()
    assert (made().matching([{"st": 1.0}], 5), made().nearest(vector, 5)) == ([{}], [{}])
    assert made().entries(["only"]) == {}
    assert made().vectors(["only"])[0].shape == (1, DIMENSION)


def test_an_entry_added_twice_is_held_once(made):
    entries = odd_entries()[:20]
    store = made()
    store.add(entries)
    store.add(entries[5:])  # as after two processes that both found nothing held
    store.finish()
    assert_same(made().matching([{"st": 1.0}], 20)[0], bm25(entries, {"st": 1.0}, 20))


def drop(store):
    """Remove the table or tables of an index, and nothing that lies beside them."""
    if isinstance(store, embedded.LanceStore):
        store._connected().drop_table(NAME)
    else:
        for part in server_side.PARTS:
            store._run(f'DROP TABLE "{NAME} {part}" CASCADE')


def test_vectors_of_another_length_are_a_sentence_and_the_way_out_that_it_tells_works(
    made, place, tmp_path
):
    def short(one):
        return one._replace(vector=one.vector[:8] / np.linalg.norm(one.vector[:8]))

    entries = odd_entries()
    store = filled(made(), entries)
    shorter = [short(one) for one in entries]
    queries = np.stack([one.vector for one in shorter[:2]])
    words = "holds vectors of 16 numbers, and the embedder gives 8; make it anew: .* ecg-llm index"
    for work in (
        lambda: store.nearest(queries, 5),
        lambda: store.add([short(entry("new", 99))]),
        lambda: open_store(place, tmp_path, NAME, 8).nearest(queries, 5),
        lambda: open_store(place, tmp_path, NAME, 8).add([short(entry("new", 99))]),
        lambda: open_store(place, tmp_path, NAME, 8).finish(),
    ):
        with pytest.raises(StepError, match=words) as caught:
            work()
        assert "\n" not in str(caught.value)
    vector = entries[3].vector
    assert_same(store.nearest(vector[None], 9)[0], cosines(entries, vector, 9))
    drop(store)
    filled(open_store(place, tmp_path, NAME, 8), shorter)
    anew = open_store(place, tmp_path, NAME, 8)
    assert_same(anew.nearest(queries[:1], 9)[0], cosines(shorter, queries[0], 9))


def clustered(count):
    """Unit vectors around centres, so that neighbours are near."""
    chance = np.random.default_rng(4)
    centres = chance.standard_normal((count // 20, DIMENSION))
    rows = centres[chance.integers(len(centres), size=count)]
    rows = (rows + 0.4 * chance.standard_normal((count, DIMENSION))).astype(np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    return [Entry(f"p{n:05}", "v", "text", ("st",), row) for n, row in enumerate(rows)]


def test_a_large_store_is_searched_in_part_and_finds_nearly_all(made, monkeypatch):
    monkeypatch.setattr(arrays, "EXACT", 1000)
    monkeypatch.setattr(arrays, "PROBES", 8)
    monkeypatch.setattr(server_side, "EXACT", 1000)
    entries = clustered(2000)
    store = filled(made(), entries, 500)
    right = 0
    for one in entries[:50]:
        (found,) = store.nearest(one.vector[None], 10)
        wanted = cosines(entries, one.vector, 10)
        assert found[one.passage_id] == pytest.approx(1)
        right += len(set(found) & set(wanted))
        assert all(
            found[key] == pytest.approx(wanted[key], abs=1e-5) for key in {*found} & {*wanted}
        )
    assert right >= 0.9 * 500
    assert len(store.nearest(entries[0].vector[None], 1500)[0]) == 1500


@pytest.mark.slow
def test_a_server_searches_many_vectors_through_their_index(server, monkeypatch):
    import psycopg

    monkeypatch.setattr(server_side, "EXACT", 1000)
    with psycopg.connect(server, autocommit=True) as connection:
        connection.execute("CREATE DATABASE many")
    store = open_store(f"{server.rpartition('/')[0]}/many", Path(), NAME, DIMENSION)
    entries = clustered(2000)
    filled(store, entries, 500)
    uses = f"SELECT idx_scan FROM pg_stat_user_indexes WHERE indexrelname = '{NAME} hnsw'"
    for k, used in ((20, 1), (250, 2), (1500, 2)):
        store.nearest(entries[0].vector[None], k)
        store._run("SELECT pg_stat_force_next_flush()")
        assert list(store._run(uses)) == [(used,)], k


# Folders


def lance(tmp_path, name=NAME):
    return open_store("index", tmp_path, name, DIMENSION)


def test_text_of_a_removed_entry_leaves_the_disk(tmp_path):
    def held(word):
        files = [path for path in tmp_path.rglob("*") if path.is_file()]
        return any(word in path.read_bytes() for path in files)

    store = filled(lance(tmp_path), [entry("a", 1), entry("b", 2, text="on yeast")])
    assert held(b"yeast")
    store.remove(["b"])
    store.finish()
    assert not held(b"yeast")
    filled(lance(tmp_path, OLD), [entry("c", 3, text="on flour")])
    assert held(b"flour")
    filled(lance(tmp_path), [])
    assert not held(b"flour")


def test_a_search_is_not_disturbed_by_a_build_until_it_is_finished(tmp_path):
    entries = odd_entries()
    filled(lance(tmp_path), entries[:30])
    building = lance(tmp_path)
    building.remove([one.passage_id for one in entries[:10]])
    building.add(entries[30:])
    fresh = lance(tmp_path)
    assert_same(fresh.matching([{"st": 1.0}], 9)[0], bm25(entries[:30], {"st": 1.0}, 9))
    building.finish()
    assert_same(fresh.matching([{"st": 1.0}], 9)[0], bm25(entries[10:], {"st": 1.0}, 9))


def test_finishing_again_writes_nothing_anew(tmp_path):
    store = filled(lance(tmp_path), odd_entries())
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.npy")}
    store.finish()
    lance(tmp_path).finish()
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.npy")} == before


def test_a_build_is_the_same_bytes_whatever_the_order(tmp_path):
    entries = odd_entries()
    filled(open_store("one", tmp_path, NAME, DIMENSION), entries)
    filled(open_store("two", tmp_path, NAME, DIMENSION), entries[::-1], 3)
    one, two = ({path.name: path.read_bytes() for path in (tmp_path / name).rglob("*.npy")}
                for name in ("one", "two"))  # fmt: skip
    assert one == two


@pytest.mark.parametrize("name", ["vectors", "ids", "texts_ends", "postings", "clusters"])
@pytest.mark.parametrize("harm", ["cut", "delete", "empty", "garbage"])
def test_arrays_that_are_lost_or_broken_are_made_again(tmp_path, name, harm):
    entries = odd_entries()
    filled(lance(tmp_path), entries)
    (path,) = tmp_path.rglob(f"{name}.npy")
    if harm == "delete":
        path.unlink()
    elif harm == "garbage":
        garble(path, 128)
    else:
        path.write_bytes(path.read_bytes()[: -8 if harm == "cut" else 0])
    store = lance(tmp_path)
    assert_same(store.matching([{"st": 1.0}], 9)[0], bm25(entries, {"st": 1.0}, 9))
    vector = entries[3].vector
    assert_same(store.nearest(vector[None], 9)[0], cosines(entries, vector, 9))


def garble(path, start, letter=b"\xff"):
    """Overwrite a file's bytes in place, but for the first and as many last ones."""
    content = path.read_bytes()
    path.write_bytes(content[:start] + letter * (len(content) - 2 * start) + content[-start:])


def test_arrays_that_are_broken_where_opening_does_not_look_are_made_again_all_the_same(tmp_path):
    long = entry("long", 1, text="e" * 3_000_000)
    filled(lance(tmp_path), [long, entry("b", 2)])
    (path,) = tmp_path.rglob("texts.npy")
    garble(path, 1_100_000)  # not text: a search finds out
    store = lance(tmp_path)
    assert store.entries(["long"])["long"].text == long.text
    garble(path, 1_100_000, b"x")  # another text: a build finds out
    store.finish()
    assert store.entries(["long"])["long"].text == long.text
    assert lance(tmp_path).entries(["long"])["long"].text == long.text


@pytest.mark.parametrize("harm", ["cut", "delete"])
@pytest.mark.parametrize(
    ("files", "broken"),
    [("*.lance", ["build"]), ("*.manifest", ["build", "search"]), ("*.txn", [])],
)
def test_a_broken_table_is_a_sentence_and_the_way_out_that_it_tells_works(
    tmp_path, files, broken, harm
):
    entries = odd_entries()
    filled(lance(tmp_path), entries)
    for path in (tmp_path / "index" / f"{NAME}.lance").rglob(files):
        path.unlink() if harm == "delete" else path.write_bytes(path.read_bytes()[:5])

    def search():
        return lance(tmp_path).matching([{"st": 1.0}], 9)[0]

    wanted = bm25(entries, {"st": 1.0}, 9)
    for name, work in (("search", search), ("build", lambda: filled(lance(tmp_path), []))):
        if name in broken:
            with pytest.raises(StepError, match="make it anew with: ecg-llm index") as caught:
                work()
            assert "\n" not in str(caught.value)
            assert ".rs:" not in str(caught.value)
        else:
            work()
    if "search" not in broken:
        assert_same(search(), wanted)
    shutil.rmtree(tmp_path / "index")
    filled(lance(tmp_path), entries)
    assert_same(search(), wanted)


@pytest.mark.parametrize("harm", ["cut", "delete"])
def test_a_lost_mark_of_what_was_finished_asks_for_another_build(tmp_path, harm):
    filled(lance(tmp_path), odd_entries())
    (tag,) = tmp_path.rglob("tags/*.json")
    tag.unlink() if harm == "delete" else tag.write_bytes(b"{")
    with pytest.raises(StepError, match="ecg-llm index"):
        lance(tmp_path).matching([{"st": 1.0}], 9)


def test_a_table_at_which_the_library_itself_breaks_is_a_sentence(tmp_path, monkeypatch):
    filled(lance(tmp_path), odd_entries())
    for path in tmp_path.rglob("*.manifest"):
        path.write_bytes(b"\xff" * 4 + path.read_bytes()[4:])
    for work in (lance(tmp_path).held, lambda: lance(tmp_path).matching([{"st": 1.0}], 9)):
        with pytest.raises(StepError, match="make it anew with: ecg-llm index"):
            work()
    # Outside its threads the library raises what `except Exception` does not catch.
    panic = type("PanicException", (BaseException,), {"__module__": "pyo3_runtime"})
    store = lance(tmp_path)
    for error, told in ((panic("range end"), StepError), (KeyboardInterrupt(), KeyboardInterrupt)):
        monkeypatch.setattr(store, "_table", lambda error=error: (_ for _ in ()).throw(error))
        with pytest.raises(told):
            store.held()


FILL = """
import sys
from pathlib import Path
sys.path[:0] = [sys.argv[1], str(Path(sys.argv[1]).parent)]
from test_stores import StepError, clustered, filled, lance
try:
    store = filled(lance(Path(sys.argv[2])), clustered(2000), 500)
    print(len(store.held()), "held,", len(store.matching([{"st": 1.0}], 9)[0]), "found")
except StepError as error:
    print(error)
"""
SMALL_DISK = """
set -e
mount -t tmpfs -o size="$1" small "$5"
"$2" -c "$3" "$4" "$5"
mount -o remount,size=50m "$5"
"$2" -c "$3" "$4" "$5"
"""


@pytest.mark.slow
@pytest.mark.parametrize("size", ["100k", "300k", "400k", "500k"])
def test_a_full_disk_is_a_sentence_and_the_way_out_that_it_tells_works(tmp_path, size):
    # The table's log, its rows, the folder of the arrays and the arrays do not fit, in this order.
    if shutil.which("unshare") is None:
        pytest.skip("needs unshare")
    run = subprocess.run(
        ["unshare", "-rm", "bash", "-c", SMALL_DISK, "bash", size, sys.executable, FILL,
         str(Path(__file__).parent), str(tmp_path)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    if "unshare failed" in run.stderr or "mount:" in run.stderr:
        pytest.skip("needs to mount a small disk")
    full, again = run.stdout.splitlines()
    assert full.endswith("the disk is full: make space, then run again")
    assert again == "2000 held, 9 found"


def test_a_place_that_is_a_file_is_a_sentence(tmp_path):
    (tmp_path / "index").write_text("hello")
    for work in (lance(tmp_path).held, lance(tmp_path).finish):
        with pytest.raises(StepError, match="ecg-llm index"):
            work()


WRITE = """
import sys
from pathlib import Path
sys.path[:0] = [sys.argv[1], str(Path(sys.argv[1]).parent)]
from test_stores import filled, lance, odd_entries
filled(lance(Path(sys.argv[2])), odd_entries())
"""


@pytest.mark.slow
def test_two_processes_that_write_at_once_leave_an_index_that_is_whole(tmp_path):
    runs = [
        subprocess.Popen(
            [sys.executable, "-c", WRITE, str(Path(__file__).parent), str(tmp_path)],
            stderr=subprocess.PIPE, text=True,
        )
        for _ in range(2)
    ]  # fmt: skip
    for run in runs:
        _, error = run.communicate()
        assert run.returncode == 0 or StepError.__name__ in error, error
    store = lance(tmp_path)
    wanted = odd_entries()
    held = store.held()
    filled(store, [one for one in wanted if one.passage_id not in held])
    assert_same(store.matching([{"st": 1.0}], 9)[0], bm25(wanted, {"st": 1.0}, 9))


READ = """
import sys, time
from pathlib import Path
sys.path[:0] = [sys.argv[1], str(Path(sys.argv[1]).parent)]
from test_stores import lance
from ecg_llm.retrieve import arrays
folder = Path(sys.argv[2])
written = arrays.write

def meet(name, seconds):
    (folder / f"{name} {sys.argv[3]}").touch()
    end = time.monotonic() + seconds
    while len(list(folder.glob(f"{name}*"))) < 3 and time.monotonic() < end:
        time.sleep(0.001)

def write(place, rows):
    meet("write", 1)
    written(place, rows)

arrays.write = write
store = lance(folder)
store.held()
meet("search", 60)
print(list(store.matching([{"st": 1.0}], 9)[0]))
"""


@pytest.mark.slow
def test_processes_that_find_no_arrays_at_once_all_answer(tmp_path):
    entries = odd_entries()
    filled(lance(tmp_path), entries)
    (states,) = tmp_path.rglob("*.search")
    shutil.rmtree(states)
    runs = [
        subprocess.Popen(
            [sys.executable, "-c", READ, str(Path(__file__).parent), str(tmp_path), str(number)],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )
        for number in range(3)
    ]  # fmt: skip
    answers = [run.communicate() for run in runs]
    wanted = str(list(bm25(entries, {"st": 1.0}, 9)))
    assert [out.strip() for out, _ in answers] == [wanted] * 3, answers
    assert len(list(states.iterdir())) == 1


def test_a_reader_leaves_alone_what_others_write(tmp_path):
    entries = odd_entries()
    filled(lance(tmp_path), entries)
    (state,) = tmp_path.rglob("*.search/*")
    newer = state.with_name("0123-1")
    state.rename(newer)
    lance(tmp_path).matching([{"st": 1.0}], 9)
    assert {path.name for path in state.parent.iterdir()} == {newer.name, state.name}
    lance(tmp_path).finish()
    assert [path.name for path in state.parent.iterdir()] == [state.name]


def test_what_a_killed_writer_left_goes_with_the_next_build(tmp_path):
    store = filled(lance(tmp_path), odd_entries())
    (state,) = tmp_path.rglob("*.search/*")
    (state.parent / "0123-1.tmp").mkdir()
    store.finish()
    assert [path.name for path in state.parent.iterdir()] == [state.name]


# Servers


@pytest.mark.slow
def test_what_a_server_refuses_is_one_sentence(server, monkeypatch):
    import psycopg

    def told(place):
        with pytest.raises(StepError) as caught:
            open_store(place, Path(), NAME, DIMENSION).finish()
        assert "\n" not in str(caught.value)
        assert PASSWORD not in str(caught.value)
        return str(caught.value)

    base = server.rpartition("/")[0]
    assert "check that it runs" in told(f"postgresql://u@127.0.0.1:{free_port()}/x")
    assert "does not exist" in told(f"{base}/absent")
    assert "schema" in told(f"{base}/postgres?options=-csearch_path%3Dnope")
    assert "check" in told("postgresql://u@no-such-host.invalid/x?connect_timeout=2")
    with psycopg.connect(server, autocommit=True) as connection:
        connection.execute("CREATE DATABASE bare")
        connection.execute(f"CREATE USER reader PASSWORD '{PASSWORD}'")
        connection.execute("CREATE EXTENSION IF NOT EXISTS vector")
    reader = server.replace("postgres@", "reader@")
    assert "right to create tables" in told(reader)
    with psycopg.connect(f"{base}/bare", autocommit=True) as connection:
        connection.execute("CREATE SCHEMA own")
    assert len(open_store(f"{base}/bare?options=-csearch_path%3Down,public", Path(), NAME,
                          DIMENSION).held()) == 0  # fmt: skip
    monkeypatch.setenv("PGPASSWORD", "wrong")
    assert "password authentication failed" in told(server)


@pytest.mark.slow
@pytest.mark.parametrize("part", server_side.PARTS)
def test_an_index_that_lost_a_table_is_made_anew(server, part):
    import psycopg

    with psycopg.connect(server, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE without_{part}")
    place = f"{server.rpartition('/')[0]}/without_{part}"
    entries = odd_entries()
    filled(open_store(place, Path(), NAME, DIMENSION), entries)
    with psycopg.connect(place, autocommit=True) as connection:
        connection.execute(f'DROP TABLE "{NAME} {part}" CASCADE')
    store = open_store(place, Path(), NAME, DIMENSION)
    assert store.held() == {}
    filled(store, entries)
    assert store.held() == {one.passage_id: one.version for one in entries}
    assert_same(store.matching([{"st": 1.0}], 9)[0], bm25(entries, {"st": 1.0}, 9))
    vector = entries[3].vector
    assert_same(store.nearest(vector[None], 9)[0], cosines(entries, vector, 9))
    assert store.vectors(["p003"])[1][0] != 0


@pytest.mark.slow
def test_a_server_whose_disk_is_full_asks_for_space(server):
    import psycopg

    with psycopg.connect(server, autocommit=True) as connection:
        connection.execute("CREATE DATABASE full_disk")
    place = f"{server.rpartition('/')[0]}/full_disk"
    store = filled(open_store(place, Path(), NAME, DIMENSION), odd_entries()[:5])
    with psycopg.connect(place, autocommit=True) as connection:
        connection.execute(
            "CREATE FUNCTION fail() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN "
            "RAISE EXCEPTION 'could not extend file' USING ERRCODE = 'disk_full'; END $$"
        )
        connection.execute(
            f'CREATE TRIGGER fail BEFORE INSERT ON "{NAME} entries" EXECUTE FUNCTION fail()'
        )
    with pytest.raises(StepError, match="make space, then run again"):
        store.add(odd_entries())


@pytest.mark.slow
def test_one_process_writes_to_a_server_at_a_time(server):
    import psycopg

    with psycopg.connect(server, autocommit=True) as connection:
        connection.execute("CREATE DATABASE queue")
    place = f"{server.rpartition('/')[0]}/queue"
    first, second = (open_store(place, Path(), NAME, DIMENSION) for _ in range(2))
    first.add(odd_entries()[:5])
    for work in (lambda: second.add(odd_entries()), second.finish, lambda: second.remove(["p001"])):
        with pytest.raises(StepError, match="Another process is writing"):
            work()
    assert len(second.held()) == 5, "reading goes on"
    first.finish()
    filled(second, odd_entries()[5:])
    assert len(first.held()) == len(odd_entries())


@pytest.mark.slow
def test_a_search_goes_on_after_its_connection_was_lost(server):
    import psycopg

    place = f"{server.rpartition('/')[0]}/lost"
    with psycopg.connect(server, autocommit=True) as connection:
        connection.execute("CREATE DATABASE lost")
        store = filled(open_store(place, Path(), NAME, DIMENSION), odd_entries())
        connection.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = 'lost'"
        )
    with pytest.raises(StepError, match="run again"):
        store.matching([{"st": 1.0}], 9)
    assert_same(store.matching([{"st": 1.0}], 9)[0], bm25(odd_entries(), {"st": 1.0}, 9))


@pytest.mark.slow
def test_object_storage_that_does_not_answer_is_a_sentence(bucket, tmp_path, monkeypatch):
    def told(place):
        found = []
        store = open_store(place, tmp_path, NAME, DIMENSION)
        for work in (store.held, store.finish, lambda: store.matching([{"st": 1.0}], 9)):
            with pytest.raises(StepError, match="keys in the environment") as caught:
                work()
            found.append(str(caught.value))
        assert len(set(found)) == 1
        return found[0]

    words = "cannot be reached or has no such bucket ({}); check its address"
    assert words.format("NoSuchBucket") in told("s3://absent/index")
    monkeypatch.setenv("AWS_ENDPOINT", f"http://127.0.0.1:{free_port()}")
    assert words.format("Connection refused") in told(f"{bucket}/index")


CLOUD = [name for names in stores.ENDPOINTS.values() for name in names] + [
    "AWS_REGION", "AWS_VIRTUAL_HOSTED_STYLE_REQUEST", "AZURE_STORAGE_ACCOUNT_NAME",
    "PGHOST", "PGHOSTADDR", "PGSERVICE",
]  # fmt: skip


@pytest.fixture
def bare(monkeypatch):
    """Give an environment that names no host."""
    for name in CLOUD:
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)
    return monkeypatch


def test_hosts_that_an_address_names(bare):
    bare.setenv("AWS_REGION", "eu-central-1")
    for place, hosts in (
        ("index", ()),
        ("postgresql://u@DB.example:5/x", ("db.example",)),
        ("postgresql://u@a.example:5,[2001:db8::1]:6,b%2Eexample/x?sslmode=require",
         ("a.example", "2001:db8::1", "b.example")),
        ("postgresql:///x", ()),
        ("postgresql://u@%2Frun%2Fpostgresql/x", ()),
        ("postgres://h.example", ("h.example",)),
        ("s3://shelf/x", ("s3.eu-central-1.amazonaws.com",)),
        ("gs://shelf/x", ("storage.googleapis.com", "oauth2.googleapis.com")),
        ("abfss://box@shelf.dfs.core.windows.net/x", ("shelf.blob.core.windows.net",)),
        ("az://box/x", ()),
    ):  # fmt: skip
        assert hosts_of(place) == hosts, place
    bare.setenv("AWS_VIRTUAL_HOSTED_STYLE_REQUEST", "true")
    bare.setenv("AZURE_STORAGE_ACCOUNT_NAME", "clinic")
    assert hosts_of("s3://shelf/x") == ("shelf.s3.eu-central-1.amazonaws.com",)
    assert hosts_of("az://box/x") == ("clinic.blob.core.windows.net",)


@pytest.mark.parametrize(
    ("place", "variable", "value", "host"),
    [
        ("postgresql://u@192.0.2.7/x", "", "", "192.0.2.7"),
        ("postgresql://u@127.0.0.1:1,192.0.2.7:1/x", "", "", "192.0.2.7"),
        ("postgresql:///x", "PGHOST", "192.0.2.7", "192.0.2.7"),
        ("postgresql://u@127.0.0.1/x", "PGHOSTADDR", "192.0.2.7", "192.0.2.7"),
        ("s3://shelf/x", "AWS_REGION", "mars-1", "s3.mars-1.amazonaws.com"),
        ("s3://shelf/x", "AWS_ENDPOINT_URL_S3", "http://192.0.2.7:9000", "192.0.2.7"),
        ("s3://shelf/x", "aws_endpoint", "http://192.0.2.7:9000", "192.0.2.7"),
        ("gs://shelf/x", "", "", "storage.googleapis.com"),
        ("gs://shelf/x", "GOOGLE_BASE_URL", "http://192.0.2.7", "192.0.2.7"),
        ("az://box/x", "AZURE_STORAGE_ACCOUNT_NAME", "mars", "mars.blob.core.windows.net"),
    ],
)
def test_a_store_where_the_study_may_not_reach_is_not_connected_to(
    place, variable, value, host, bare, tmp_path
):
    pytest.importorskip("psycopg")
    if variable:
        bare.setenv(variable, value)
    store = open_store(place, tmp_path, NAME, DIMENSION)
    with privacy.guard([]) as guard:
        for work in (store.held, store.finish, lambda: store.matching([{"st": 1.0}], 5)):
            with pytest.raises(EgressError, match=host):
                work()
    assert guard.refused == {host}
    assert guard.contacted == set()


def test_a_host_of_a_store_is_among_those_contacted(bare, tmp_path):
    psycopg = pytest.importorskip("psycopg")
    bare.setattr(psycopg, "connect", lambda *_, **__: pytest.fail("reached"))
    store = open_store("postgresql://u@192.0.2.7/x", tmp_path, NAME, DIMENSION)
    with (
        privacy.guard(hosts_of("postgresql://u@192.0.2.7/x")) as guard,
        pytest.raises(pytest.fail.Exception, match="reached"),
    ):
        store.held()
    assert guard.contacted == {"192.0.2.7"}


def test_object_storage_that_could_lie_anywhere_is_not_looked_for(bare, tmp_path):
    for place in ("s3://shelf/x", "az://box/x"):
        with pytest.raises(UsageError, match="in the environment"):
            open_store(place, tmp_path, NAME, DIMENSION).held()


def test_places_that_are_refused(tmp_path):
    for place, words in (
        ("postgresql://u:secret@host/db", "PGPASSWORD"),
        ("postgresql://u@host/db?password=secret", "PGPASSWORD"),
        ("postgresql://u@host/db?sslmode=require&sslp%61ssword=secret", "PGPASSWORD"),
        ("postgresql://u@host/db?x=1#&password=secret", "PGPASSWORD"),
        ("postgresql://u@host/db?host=other", "parameter host;"),
        ("postgresql://u@host/db?hostaddr=192.0.2.7", "parameter hostaddr"),
        ("postgresql://u@host/db?service=", "parameter service"),
        ("s3://key:secret@bucket/x", "holds a password"),
        ("ftp://host/x", "ftp:// is not known"),
        ("postgresql://[::1/db", "not a valid address"),
    ):
        with pytest.raises(UsageError, match=words) as caught:
            open_store(place, tmp_path, NAME, DIMENSION)
        assert "secret" not in str(caught.value)


def test_a_server_without_its_client_names_the_package(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "psycopg", None)
    with pytest.raises(MissingPackage, match=r"pip install 'ecg-llm\[postgres\]'"):
        open_store("postgresql://u@host/db", tmp_path, NAME, DIMENSION)
