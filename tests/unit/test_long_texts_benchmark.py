"""The benchmark of long texts: each set twice, of its judged documents and some others."""

from benchmarks import long_texts
from cde_train.data.retrieval_sets import read_retrieval_set
from tests.tiny import HEADED, tiny_encoder
from tests.unit.test_quality import write_sets


def test_each_set_is_measured_cut_and_in_windows(tmp_path, capsys):
    folder, sets = tiny_encoder(**HEADED).save_pretrained(tmp_path / "model"), write_sets(tmp_path / "sets")
    options = ["--only", "a", "--others", "4", "--dtype", "float32"]
    assert long_texts.main([str(folder), str(sets), *options]) == 0
    rows = [line.split(" | ")[:3] for line in capsys.readouterr().out.splitlines()[2:]]
    assert rows == [["| a", "9", "cut"], ["| a", "9", "windows"]]


def test_judged_documents_stay(tmp_path):
    data = read_retrieval_set(write_sets(tmp_path / "sets") / "b")
    fewer = long_texts.with_fewer(data, 3)
    assert set(fewer.document_ids) >= {name for grades in data.relevant.values() for name in grades}
    assert len(fewer.document_ids) == 8
    assert (
        dict(zip(fewer.document_ids, fewer.documents, strict=True)).items()
        <= dict(zip(data.document_ids, data.documents, strict=True)).items()
    )
