"""Every kind of source, and every bad input with the sentence it earns."""

import io
import os
import random
import sys
import tarfile
import urllib.error
import urllib.request
import warnings
import weakref
import zlib
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import torch

from aliascope.errors import ImageError
from aliascope.images import MAX_PIXELS, decode, labels_fit, open_images, photos

NOISE = np.random.default_rng(0).integers(0, 256, (5, 7, 4), dtype=np.uint8)


def picture(mode="RGB"):
    """A picture of noise, 7 wide and 5 high."""
    bands = NOISE if mode in {"RGBA", "CMYK"} else NOISE[..., :3]
    return PIL.Image.fromarray(bands, {3: "RGB", 4: mode}[bands.shape[2]]).convert(mode)


def contents(image, kind="PNG", **options):
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def png_header(width, height):
    """A PNG that claims a size and holds nothing."""
    header = bytearray(contents(picture()))
    header[16:24] = width.to_bytes(4, "big") + height.to_bytes(4, "big")
    crc = zlib.crc32(header[12:29])
    return bytes(header[:29]) + crc.to_bytes(4, "big") + bytes(header[33:])


def save(path, image=None, kind="PNG"):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(contents(image or picture(), kind))


def ids(source):
    return [entry.id for entry in source.entries()]


@pytest.fixture
def folder(tmp_path):
    """Three pictures, and around them everything that is none."""
    root = tmp_path / "pictures"
    for name in ("b.png", "a/z.JPG", "a-b/c.gif", ".hidden.png", ".git/d.png"):
        save(root / name, kind="PNG")
    (root / "notes.txt").write_text("no picture")
    (root / "folder.png").mkdir()
    return root


class TestDecode:
    def test_8_bit_is_taken_as_it_is(self):
        pixels, note = decode(contents(picture()))
        assert (pixels.dtype, pixels.shape, note) == (torch.uint8, (3, 5, 7), "")
        assert pixels.is_contiguous()
        assert np.array_equal(pixels.numpy().transpose(1, 2, 0), NOISE[..., :3])

    def test_path_and_bytes_agree(self, tmp_path):
        save(tmp_path / "x.png")
        from_path = decode(tmp_path / "x.png")
        from_bytes = decode((tmp_path / "x.png").read_bytes())
        assert torch.equal(from_path[0], from_bytes[0])

    @pytest.mark.parametrize(
        ("mode", "kind", "expected"),
        [
            ("L", "PNG", "greyscale"),
            ("1", "PNG", "1-bit"),
            ("P", "PNG", "palette"),
            ("P", "GIF", "palette"),
            ("RGBA", "PNG", "alpha dropped"),
            ("LA", "PNG", "greyscale, alpha dropped"),
            ("CMYK", "JPEG", "CMYK"),
            ("CMYK", "TIFF", "CMYK"),
            ("LAB", "TIFF", "LAB"),
        ],
    )
    def test_other_modes_become_rgb_and_say_so(self, mode, kind, expected):
        data = contents(picture(mode), kind)
        pixels, note = decode(data)
        assert note == expected
        oracle = np.array(PIL.Image.open(io.BytesIO(data)).convert("RGB"))
        assert np.array_equal(pixels.numpy().transpose(1, 2, 0), oracle)

    @pytest.mark.parametrize("transparency", [0, bytes(range(256))])
    def test_palette_with_alpha(self, transparency, tmp_path):
        (tmp_path / "x.png").write_bytes(contents(picture("P"), transparency=transparency))
        (image,) = open_images(tmp_path)  # Pillow warns of the second kind
        assert image.note == "palette, alpha dropped"
        assert torch.equal(image.pixels, decode(contents(picture("P")))[0])

    def test_alpha_is_not_blended(self):
        red = PIL.Image.new("RGBA", (1, 1), (255, 0, 0, 0))
        assert decode(contents(red))[0].flatten().tolist() == [255, 0, 0]

    @pytest.mark.parametrize(
        ("mode", "kind"), [("I;16", "PNG"), ("I;16", "TIFF"), ("I;16B", "TIFF"), ("I", "TIFF")]
    )
    def test_16_bit_is_divided_by_65535(self, mode, kind):
        values = np.array([[0, 1, 255], [256, 32768, 65535]])
        deep = values.astype({"I;16": "<u2", "I;16B": ">u2", "I": "<i4"}[mode])
        image = PIL.Image.frombytes(mode, (3, 2), deep.tobytes())
        pixels, note = decode(contents(image, kind))
        assert (note, pixels.dtype) == ("16-bit greyscale", torch.float32)
        assert np.array_equal(pixels.numpy(), np.stack([values.astype(np.float32) / 65535] * 3))

    def test_floating_point_is_taken_as_it_is(self):
        values = np.array([[0, 0.25, 1]], dtype=np.float32)
        pixels, note = decode(contents(PIL.Image.fromarray(values), "TIFF"))
        assert note == "floating-point greyscale"
        assert pixels[2].tolist() == [[0, 0.25, 1]]

    @pytest.mark.parametrize(
        ("values", "sentence"),
        [
            (np.array([[-1.5, 255]], dtype=np.float32), "from -1.5 to 255; scale them to"),
            (np.array([[0, np.nan]], dtype=np.float32), "from nan to nan; scale them to"),
            (np.array([[0, 131070]], dtype=np.int32), "from 0 to 2; scale them to"),
        ],
    )
    def test_values_out_of_range_are_refused_not_guessed(self, values, sentence):
        with pytest.raises(ImageError, match=sentence):
            decode(contents(PIL.Image.fromarray(values), "TIFF"))

    def test_first_of_several_frames(self):
        frames = [PIL.Image.new("RGB", (4, 4), colour) for colour in ("red", "lime", "blue")]
        data = contents(frames[0], "GIF", save_all=True, append_images=frames[1:])
        pixels, note = decode(data)
        assert note == "first of 3 frames, palette"
        assert pixels[:, 0, 0].tolist() == [255, 0, 0]

    def test_exif_rotation_is_ignored_as_timm_does(self):
        exif = PIL.Image.Exif()
        exif[0x0112] = 6
        assert decode(contents(picture(), "JPEG", exif=exif))[0].shape == (3, 5, 7)

    @pytest.mark.parametrize("size", [(1, 1), (1, 300), (300, 1)])
    def test_narrow_pictures(self, size):
        assert decode(contents(PIL.Image.new("RGB", size)))[0].shape == (3, *size[::-1])

    def test_huge_pictures_are_refused_before_they_are_decoded(self, monkeypatch):
        monkeypatch.setattr(PIL.Image, "MAX_IMAGE_PIXELS", None)  # Pillow's own, tested below
        with pytest.raises(ImageError, match=r"12,000 × 9,000 .* 100,000,000 allowed; shrink it"):
            decode(png_header(12_000, 9_000))

    def test_the_limit_itself_is_allowed(self, monkeypatch):
        monkeypatch.setattr(PIL.Image, "MAX_IMAGE_PIXELS", None)
        with pytest.raises(ImageError, match=r"cannot be decoded \(.*truncated"):
            decode(png_header(MAX_PIXELS // 10_000, 10_000))

    def test_pillows_own_limit_is_a_sentence_too(self):
        with pytest.raises(ImageError, match=r"cannot be decoded \(Image size \(1600000000 pixels"):
            decode(png_header(40_000, 40_000))

    @pytest.mark.parametrize(
        ("data", "sentence"),
        [
            (contents(picture())[:-60], r"cannot be decoded \(.*(truncated|broken)"),
            (contents(picture(), "JPEG")[:-20], r"cannot be decoded \(.*truncated"),
            (b"", "is in no format that Pillow reads; save it as PNG or JPEG"),
            (b"no picture", "is in no format that Pillow reads; save it as PNG or JPEG"),
            (contents(picture(), "EPS"), "is in no format"),
        ],
        ids=["png", "jpeg", "empty", "text", "eps"],
    )
    def test_unreadable(self, data, sentence):
        with pytest.raises(ImageError, match=sentence):
            decode(data)

    def test_missing_file(self, tmp_path):
        with pytest.raises(ImageError, match=r"^cannot be decoded \(No such file or directory\)$"):
            decode(tmp_path / "gone.png")

    def test_hostile_bytes_raise_nothing_else(self):
        chance = random.Random(0)  # noqa: S311 - no secret
        seeds = [
            contents(picture(), kind) for kind in ("PNG", "JPEG", "GIF", "TIFF", "WEBP", "BMP")
        ]
        read = 0
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            for _ in range(600):
                data = bytearray(chance.choice(seeds))
                for _ in range(chance.choice([1, 2, 10])):
                    data[chance.randrange(len(data))] = chance.randrange(256)
                try:
                    pixels, _ = decode(bytes(data))
                except ImageError:
                    continue
                read += 1
                assert pixels.dtype == torch.uint8 or 0 <= pixels.min() <= pixels.max() <= 1
        assert 100 < read < 500  # both ends were met


def bad_metadata():
    """A TIFF with pixels in order and two resolutions where one belongs."""
    data = bytearray(contents(picture(), "TIFF", dpi=(72, 72)))
    directory = int.from_bytes(data[4:8], "little")
    for start in range(directory + 2, directory + 2 + 12 * data[directory], 12):
        if int.from_bytes(data[start : start + 2], "little") == 296:
            data[start + 4] = 2
    return bytes(data)


class TestWarnings:
    def test_pillow_would_warn(self):
        with pytest.warns(UserWarning, match="Metadata Warning, tag 296"):
            PIL.Image.open(io.BytesIO(bad_metadata()))

    def test_an_open_source_silences_it(self, tmp_path):
        (tmp_path / "x.tif").write_bytes(bad_metadata())
        source = open_images(tmp_path)
        assert len(list(source)) == 1
        assert source.skipped == []


class TestFolder:
    def test_order_and_ids(self, folder):
        source = open_images(folder)
        assert ids(source) == ["a-b/c.gif", "a/z.JPG", "b.png"]
        assert [(i.id, i.group, i.label) for i in source] == [(i, i, None) for i in ids(source)]
        assert (source.count, source.classes, source.spec) == (3, None, str(folder))

    def test_digest_follows_the_list(self, folder):
        before = open_images(folder).digest
        assert open_images(str(folder)).digest == before
        assert open_images(folder, limit=2).digest != before
        save(folder / "c.png")
        assert open_images(folder).digest != before
        assert open_images(folder, limit=3).digest == before

    def test_limit(self, folder):
        source = open_images(folder, limit=2)
        assert (ids(source), source.count) == (["a-b/c.gif", "a/z.JPG"], 2)
        assert open_images(folder, limit=9).count == 3
        with pytest.raises(ImageError, match="a limit of 0 leaves no picture; give at least 1"):
            open_images(folder, limit=0)

    def test_unreadable_pictures_are_listed_anew_each_time(self, folder):
        (folder / "a" / "z.JPG").write_bytes(b"junk")
        source = open_images(folder)
        assert source.count == len(list(source.entries())) == 3
        for _ in range(2):
            assert [image.id for image in source] == ["a-b/c.gif", "b.png"]
            assert [skipped.id for skipped in source.skipped] == ["a/z.JPG"]
            assert "no format that Pillow reads" in source.skipped[0].reason

    def test_no_picture_outlives_its_turn(self, folder):
        images = iter(open_images(folder))
        first = weakref.ref(next(images).pixels)
        next(images)
        assert first() is None

    def test_threads_decode_the_same(self, folder):
        source = open_images(folder)
        with ThreadPoolExecutor(4) as pool:
            loads = [pool.submit(entry.load) for entry in list(source.entries()) * 20]
        expected = [image.pixels for image in source] * 20
        assert all(torch.equal(a.result()[0], b) for a, b in zip(loads, expected, strict=True))

    def test_pattern(self, folder):
        assert ids(open_images(f"{folder}/**/*.[Jg]*")) == ["a-b/c.gif", "a/z.JPG"]
        assert ids(open_images(folder / "a*" / "*")) == ["a-b/c.gif", "a/z.JPG"]
        assert ids(open_images(folder / "a" / "*")) == ["z.JPG"]

    def test_pattern_in_the_working_directory(self, folder, monkeypatch):
        monkeypatch.chdir(folder)
        assert ids(open_images("*.png")) == ["b.png"]
        assert ids(open_images(".")) == ["a-b/c.gif", "a/z.JPG", "b.png"]

    def test_one_file(self, folder):
        assert ids(open_images(folder / "a" / "z.JPG")) == ["z.JPG"]

    def test_a_folder_with_wildcards_in_its_name(self, tmp_path):
        save(tmp_path / "run[1]" / "x.png")
        assert ids(open_images(tmp_path / "run[1]")) == ["x.png"]

    @pytest.mark.skipif(sys.platform != "linux", reason="other systems refuse such names")
    def test_a_name_that_is_no_unicode_has_an_id_that_can_be_stored(self, tmp_path):
        save(tmp_path / os.fsdecode(b"caf\xe9.png"))
        (image,) = open_images(tmp_path)
        assert image.id == r"caf\udce9.png"

    @pytest.mark.skipif(sys.platform != "linux", reason="other systems refuse such names")
    def test_no_two_names_have_one_id(self, tmp_path):
        names = [b"bad\xff.png", rb"bad\udcff.png", rb"bad\\udcff.png", b"a\\\xff.png", rb"a\b.png"]
        for name in names:
            save(tmp_path / os.fsdecode(name))
        found = ids(open_images(tmp_path))
        assert len(set(found)) == len(names)
        assert r"a\b.png" in found
        assert all(name.encode() for name in found)

    def test_home(self, folder, monkeypatch):
        monkeypatch.setenv("HOME", str(folder.parent))
        assert open_images("~/pictures").count == 3


class TestLabelsBesideAFolder:
    def table(self, folder, text):
        folder.with_name("pictures.csv").write_text(text)
        return open_images(folder)

    def test_labels_by_file(self, folder):
        source = self.table(folder, "name,file,label\nx,b.png,7\ny,a/z.JPG,0\n")
        assert [image.label for image in source] == [None, 0, 7]
        assert source.classes == 8

    def test_classes_are_those_of_the_whole_source(self, folder):
        self.table(folder, "file,label\nb.png,7\n")
        assert open_images(folder, limit=1).classes == 8

    def test_a_table_of_something_else_is_none(self, folder):
        source = self.table(folder, "a,b\n1,2\n")
        assert (source.classes, next(iter(source)).label) == (None, None)

    @pytest.mark.parametrize(
        ("row", "cause"),
        [
            ("b.png,cat", "line 3: 'cat' is no whole number below 2.63"),
            ("b.png,1.5", "line 3: '1.5' is no whole number"),
            ("b.png,1_0", "line 3: '1_0' is no whole number"),
            ("b.png,9223372036854775808", "line 3: '9223372036854775808' is no whole number"),
            ("b.png", "line 3 has no label or no file"),
            (f'"{"x" * 200_000}",0', r"field larger than field limit \(131072\)"),
            ('"b.png,0', "unexpected end of data"),
        ],
        ids=["word", "fraction", "underscore", "64 bits", "short", "huge field", "open quote"],
    )
    def test_what_cannot_be_read_is_named_with_its_line(self, folder, row, cause):
        sentence = rf"pictures\.csv cannot be read as a table of labels; write .* \({cause}"
        with pytest.raises(ImageError, match=sentence):
            self.table(folder, f"file,label\na/z.JPG,0\n{row}\n")

    @pytest.mark.parametrize(
        "text",
        [
            "file;label\nb.png;1\na/z.JPG;0\na-b/c.gif;2\n",
            "file\tlabel\nb.png\t1\na/z.JPG\t0\na-b/c.gif\t2\n",
            "file, label\nb.png, 1\na/z.JPG , 0 \na-b/c.gif, 2\n",
            "File,LABEL\nb.png,1\na/z.JPG,0\na-b/c.gif,2\n",
            '"file","label"\n"b.png","1"\n"a/z.JPG","0"\n\n"a-b/c.gif","2"\n\n',
            "\nfile,label\r\nb.png,1\r\na/z.JPG,0\r\na-b/c.gif,2\r\n",
            "file,label\rb.png,1\ra/z.JPG,0\ra-b/c.gif,2\r",
            "file,label\n./b.png,1\n./a/z.JPG,0\n.//a-b/c.gif,2\n",
            "file,label\npictures/b.png,1\npictures/a/z.JPG,0\n./pictures/a-b/c.gif,2\n",
            "file,label\n{folder}/b.png,1\n{folder}/a/z.JPG,0\n{folder}/a-b/c.gif,2\n",
            "file,label\nb.png,1\na\\z.JPG,0\n.\\pictures\\a-b\\c.gif,2\n",
            "file,label\nb.png,1.0\na/z.JPG,0.\na-b/c.gif,+2\n",
        ],
    )
    @pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
    def test_every_way_to_write_it(self, folder, text, encoding):
        data = text.replace("{folder}", str(folder)).encode(encoding)
        folder.with_name("pictures.csv").write_bytes(data)
        source = open_images(folder)
        assert [entry.label for entry in source.entries()] == [2, 0, 1]
        assert source.notices == []

    def test_a_folder_within_that_has_the_same_name(self, folder):
        """`pictures/x.png` is the picture that lies there, where there is one."""
        for name in ("x.png", "pictures/x.png"):
            save(folder / name)
        source = self.table(folder, "file,label\nx.png,0\npictures/x.png,1\npictures/b.png,2\n")
        labels = {entry.id: entry.label for entry in source.entries()}
        assert (labels["x.png"], labels["pictures/x.png"], labels["b.png"]) == (0, 1, 2)

    @pytest.mark.skipif(sys.platform != "linux", reason="other systems refuse such names")
    def test_names_of_other_alphabets(self, folder):
        for name in (os.fsdecode(b"caf\xe9.png"), "\u00e9.png"):
            save(folder / name)
        rows = b"file,label\ncaf\xe9.png,4\n" + "e\u0301.png,5\n".encode()
        folder.with_name("pictures.csv").write_bytes(rows)
        labels = {entry.id: entry.label for entry in open_images(folder).entries()}
        assert (labels[r"caf\udce9.png"], labels["\u00e9.png"]) == (4, 5)

    @pytest.mark.parametrize("unknown", ["", " ", "-1"])
    def test_an_unknown_label_is_unknown(self, folder, unknown):
        source = self.table(folder, f"file,label\nb.png,{unknown}\na/z.JPG,0\na-b/c.gif,2\n")
        assert [entry.label for entry in source.entries()] == [2, 0, None]
        assert source.classes == 3

    def test_no_known_label(self, folder):
        source = self.table(folder, "file,label\nb.png,-1\n")
        assert (source.classes, labels_fit(source, 10)) == (None, (False, ""))

    def test_rows_of_other_files_are_counted(self, folder):
        source = self.table(folder, "file,label\nb.png,1\ngone.png,4\nx/b.png,2\n")
        assert source.notices == [
            f"2 of the 3 rows of {folder}.csv name no picture of its folder, such as 'gone.png'"
        ]
        assert source.classes == 5

    def test_where_no_row_matches_both_sides_are_shown(self, folder):
        sentence = (
            rf"no row of {folder}\.csv names a picture of its folder: the table has 'c/b\.png', "
            r"the folder 'a-b/c\.gif'; write paths below the folder, or rename the table"
        )
        with pytest.raises(ImageError, match=sentence):
            self.table(folder, "file,label\nc/b.png,1\n")

    @pytest.mark.parametrize(
        ("second", "both"), [("./b.png,2", "1 and 2"), ("b.png,", "1 and none")]
    )
    def test_rows_that_contradict_each_other(self, folder, second, both):
        sentence = f"csv gives 'b.png' two labels, {both}; keep one row a picture"
        with pytest.raises(ImageError, match=sentence):
            self.table(folder, f"file,label\nb.png,1\n{second}\n")
        assert self.table(folder, "file,label\nb.png,1\n./b.png,1\n").count == 3

    @pytest.mark.parametrize("text", ["", "filename,class\nb.png,1\n", "# mine\nfile,label\n"])
    def test_a_table_without_its_columns_says_so(self, folder, text):
        source = self.table(folder, text)
        assert source.notices == [
            f"{folder}.csv has no columns `file` and `label`: no labels are read from it"
        ]


class TestLabelsFit:
    def table(self, folder, *labels):
        names = ["b.png", "a/z.JPG", "a-b/c.gif"]
        names += [f"{i}.png" for i in range(len(labels) - 3)]
        rows = [f"{name},{label}" for name, label in zip(names, labels, strict=False)]
        folder.with_name("pictures.csv").write_text("\n".join(["file,label", *rows]))
        return open_images(folder)

    @pytest.mark.parametrize(
        "labels", [(3, 998, 500), (0, 217, 701), (151, 152, -1), (999, 0, 1), range(1000)]
    )
    def test_a_part_of_the_networks_classes(self, folder, labels):
        assert labels_fit(self.table(folder, *labels), 1000) == (True, "")

    @pytest.mark.parametrize(
        ("labels", "why"),
        [
            ((1, 500, 1000), "go up to 1000, the network has 1000 classes: whether an answer is"),
            (range(10), "run from 0 to 9 without a gap, as those of 10 classes of their own, and"),
        ],
    )
    def test_labels_of_something_else(self, folder, labels, why):
        fits, notice = labels_fit(self.table(folder, *labels), 1000)
        assert (fits, notice.startswith(f"the labels of {folder} {why}")) == (False, True)

    def test_most_of_the_networks_classes(self, folder):
        fits, notice = labels_fit(self.table(folder, 0, 1), 3)
        assert fits
        assert notice.endswith(
            "without a gap: they are taken for the first of the network's 3 classes"
        )

    def test_class_folders_must_be_as_many(self, tmp_path):
        for name in ("cat", "dog"):
            save(tmp_path / name / "1.png")
        source = open_images(f"imagefolder:{tmp_path}")
        assert labels_fit(source, 2) == (True, "")
        fits, notice = labels_fit(source, 1000)
        assert not fits
        assert f"{tmp_path} has 2 classes, the network has 1000 classes" in notice

    def test_a_list_is_a_table(self):
        assert labels_fit(open_images([(picture(), 3), (picture(), 998)]), 1000) == (True, "")
        assert not labels_fit(open_images([(picture(), 1000)]), 1000)[0]

    def test_a_data_set_that_does_not_say(self):
        pixels = torch.zeros(2, 3, 4, 4)
        dataset = torch.utils.data.TensorDataset(pixels, torch.tensor([3, 998]))
        fits, notice = labels_fit(open_images(dataset), 1000)
        assert not fits
        assert "TensorDataset does not say how many classes it has, as a data set does by" in notice
        dataset.classes = range(1000)
        assert labels_fit(open_images(dataset), 1000) == (True, "")

    def test_nothing_to_say(self, folder):
        assert labels_fit(open_images(folder), 1000) == (False, "")
        assert labels_fit(self.table(folder, 1, 2, 3), None) == (False, "")


class TestIdentity:
    """A run is extended by pictures that came later and refuses those that have changed."""

    def labelled(self, folder, label):
        folder.with_name("pictures.csv").write_text(f"file,label\nb.png,{label}\n")
        return open_images(folder)

    def test_a_picture_that_is_replaced(self, folder):
        before = open_images(folder)
        known, digest = before.identities(), before.digest
        assert known == {entry.id: entry.identity for entry in before.entries()}
        assert open_images(folder).identities() == known
        known_file = (folder / "b.png").stat()
        later = known_file.st_mtime_ns + 10**9  # of the same size
        os.utime(folder / "b.png", ns=(known_file.st_atime_ns, later))
        after = open_images(folder)
        assert after.digest != digest
        changed = [key for key, identity in after.identities().items() if known[key] != identity]
        assert changed == ["b.png"]
        os.utime(folder / "b.png", ns=(known_file.st_atime_ns, known_file.st_mtime_ns))
        with (folder / "b.png").open("ab") as file:  # at the same time
            file.write(b"more")
        os.utime(folder / "b.png", ns=(known_file.st_atime_ns, known_file.st_mtime_ns))
        assert open_images(folder).identities()["b.png"] not in {known["b.png"], None}

    def test_a_label_that_is_edited(self, folder):
        before, after = (self.labelled(folder, label).identities() for label in (1, 2))
        assert [key for key in before if before[key] != after[key]] == ["b.png"]

    def test_pictures_that_came_later(self, folder):
        before = open_images(folder).identities()
        save(folder / "a" / "new.png")
        after = open_images(folder).identities()
        assert after.keys() - before.keys() == {"a/new.png"}
        assert before.items() <= after.items()

    def test_only_what_is_asked_for_and_nothing_is_decoded(self, folder):
        (folder / "a" / "z.JPG").write_bytes(b"junk")
        assert list(open_images(folder, limit=2).identities()) == ["a-b/c.gif", "a/z.JPG"]

    def test_a_picture_that_vanishes_meanwhile(self, folder):
        source = open_images(folder)
        (folder / "b.png").unlink()
        assert source.identities()["b.png"] == "missing, label None"

    def test_photographs_are_known_by_their_content(self, tmp_path, monkeypatch):
        source = open_images("photos")
        known = source.identities()
        assert len(set(known.values())) == len({entry.group for entry in source.entries()}) == 17
        root = Path(find_spec("skimage").submodule_search_locations[0])
        copy = tmp_path / "data" / "astronaut.png"
        copy.parent.mkdir()
        copy.write_bytes((root / "data" / "astronaut.png").read_bytes())
        monkeypatch.setattr(photos, "PHOTOS", {"copied/data": ["astronaut.png"]})
        place = type("Place", (), {"submodule_search_locations": [str(tmp_path)]})
        monkeypatch.setattr(photos, "find_spec", lambda _: place)
        elsewhere = open_images("photos").identities()
        assert elsewhere
        assert elsewhere.items() <= known.items()

    def test_a_list_in_memory_is_known_by_its_pixels(self):
        pixels = [torch.full((3, 2, 2), value / 255) for value in (1, 2, 3)]
        before = open_images([(p, i) for i, p in enumerate(pixels)])
        later = open_images([(p.clone(), i) for i, p in enumerate([*pixels, pixels[0]])])
        assert before.identities().items() <= later.identities().items()
        pixels[1][0, 0, 0] = 0
        after = open_images([(p, i or 7) for i, p in enumerate(pixels)]).identities()
        changed = [key for key, identity in before.identities().items() if after[key] != identity]
        assert changed == ["0"]  # its label; `before` sees the new pixels too
        assert later.identities()["1"] != after["1"]


class Synthetic(torch.utils.data.Dataset):
    """Pictures that exist only when asked for."""

    classes = range(10)

    def __init__(self, seed, count=20, labels=None):
        self.seed, self.count, self.targets, self.fetched = seed, count, labels, []

    def __len__(self):
        return self.count

    def __getitem__(self, index):
        self.fetched.append(index)
        generator = torch.Generator().manual_seed(1000 * self.seed + index)
        return torch.rand(3, 4, 4, generator=generator), index % 10


class TestIdentityOfADataset:
    def test_what_distinguishes_it(self):
        made = [Synthetic(1), Synthetic(2), Synthetic(1, 19), Synthetic(1, labels=[1] * 20)]
        digests = [open_images(dataset).digest for dataset in made]
        assert len(set(digests)) == 4
        assert open_images(Synthetic(1)).digest == digests[0]

    def test_train_and_test_share_no_identity(self):
        train, test = (open_images(Synthetic(seed)).identities() for seed in (1, 2))
        assert train.keys() == test.keys()
        assert not set(train.values()) & set(test.values())

    def test_a_limit_changes_no_identity(self):
        few, more = (open_images(Synthetic(1), limit=n).identities() for n in (6, 9))
        assert (len(few), len(more)) == (6, 9)
        assert few.items() <= more.items()

    def test_it_is_not_read_through(self):
        dataset = Synthetic(1, 1000)
        source = open_images(dataset)
        assert dataset.fetched == []
        source.identities()
        source.identities()
        assert len(dataset.fetched) == 16

    def test_labels_in_arrays_of_any_kind(self):
        """torchvision's STL10 has an array, MNIST a tensor, long enough to be abbreviated."""
        digests = set()
        for kind in (list, np.asarray, torch.tensor):
            labels = [0] * 5000
            digests.add(open_images(Synthetic(1, labels=kind(labels))).digest)
            labels[2500] = 1
            digests.add(open_images(Synthetic(1, labels=kind(labels))).digest)
        assert len(digests) == 2

    def test_random_augmentation_does_not_refuse_its_own_run(self):
        class Augmented(Synthetic):
            def __getitem__(self, index):
                return torch.rand(3, 4, 4), index % 10

        assert open_images(Augmented(1)).digest == open_images(Augmented(1)).digest


class TestLinks:
    def test_a_link_to_a_parent_is_not_followed(self, tmp_path):
        save(tmp_path / "r" / "a" / "x.png")
        save(tmp_path / "r" / "y.png")
        save(tmp_path / "stranger.png")
        (tmp_path / "r" / "a" / "up").symlink_to("..")
        (tmp_path / "r" / "a" / "further").symlink_to("../..")
        (tmp_path / "r" / "self").symlink_to("self")
        for spec in (tmp_path / "r", tmp_path / "r" / "**" / "*.png"):
            source = open_images(spec)
            assert ids(source) == ["a/x.png", "y.png"]
            assert len(source.notices) == 1
            assert "'a/further' and 1 more below" in source.notices[0]
        assert ids(open_images(f"imagefolder:{tmp_path / 'r'}")) == ["a/x.png"]

    def test_files_beside_class_folders_are_not_looked_at(self, tmp_path):
        save(tmp_path / "b" / "1.png")
        save(tmp_path / "x.png")
        (tmp_path / "y.png").symlink_to("x.png")
        source = open_images(f"imagefolder:{tmp_path}")
        assert (ids(source), source.notices) == (["b/1.png"], [])

    def test_such_a_link_is_no_class(self, tmp_path):
        save(tmp_path / "b" / "1.png")
        (tmp_path / "a").symlink_to(".")
        source = open_images(f"imagefolder:{tmp_path}")
        assert (ids(source), source.classes) == (["b/1.png"], 1)

    def test_a_link_to_another_folder_is_followed_once(self, tmp_path):
        save(tmp_path / "far" / "deep" / "1.png")
        (tmp_path / "r").mkdir()
        save(tmp_path / "r" / "0.png")
        for name in ("m", "n"):
            (tmp_path / "r" / name).symlink_to(tmp_path / "far")
        source = open_images(tmp_path / "r")
        assert ids(source) == ["0.png", "m/deep/1.png"]
        assert "'n' below" in source.notices[0]

    def test_what_lies_there_keeps_its_name(self, tmp_path):
        save(tmp_path / "r" / "z" / "1.png")
        save(tmp_path / "r" / "z" / "2.png")
        (tmp_path / "r" / "a").symlink_to("z")
        (tmp_path / "r" / "a.png").symlink_to("z/1.png")
        assert ids(open_images(tmp_path / "r")) == ["z/1.png", "z/2.png"]

    def test_a_link_to_a_file(self, tmp_path):
        save(tmp_path / "far.png")
        (tmp_path / "r").mkdir()
        for name in ("m.png", "n.png"):
            (tmp_path / "r" / name).symlink_to(tmp_path / "far.png")
        (tmp_path / "r" / "broken.png").symlink_to("nowhere")
        assert ids(open_images(tmp_path / "r")) == ["m.png"]
        assert ids(open_images(tmp_path / "r" / "*.png")) == ["m.png"]
        (tmp_path / "linked").symlink_to("r")
        assert ids(open_images(tmp_path / "linked")) == ["m.png"]

    def test_loops_that_multiply_end(self, tmp_path):
        """Two links up at each level are 2^40 paths to a glob."""
        for name in ("a", "b", "c"):
            save(tmp_path / name / "1.png")
            for other in ("a", "b", "c"):
                (tmp_path / name / f"to-{other}").symlink_to(f"../{other}")
        assert ids(open_images(tmp_path)) == ["a/1.png", "b/1.png", "c/1.png"]
        assert ids(open_images(tmp_path / "[ab]" / "**" / "*")) == [
            "a/1.png",
            "a/to-c/1.png",
            "b/1.png",
        ]

    def test_a_folder_that_cannot_be_read_is_named(self, folder, monkeypatch):
        scan = os.scandir

        def refuse(path):
            if Path(path).name == "a":
                raise PermissionError
            return scan(path)

        monkeypatch.setattr("aliascope.images.walking.os.scandir", refuse)
        source = open_images(folder)
        assert ids(source) == ["a-b/c.gif", "b.png"]
        assert "'a' below" in source.notices[0]
        assert "left out: a folder that cannot be read" in source.notices[0]


class TestUnknown:
    @pytest.mark.parametrize(
        ("spec", "near"),
        [("fotos", "photos"), ("imagenet", "imagenet:…"), ("stl-10", "stl10"), ("hff:x", "hf:…")],
    )
    def test_the_nearest_kind_is_suggested(self, spec, near):
        with pytest.raises(ImageError, match=f"'{spec}' does not exist .*did you mean {near}"):
            open_images(spec)

    @pytest.mark.parametrize("spec", ["", "/nowhere/x.jpg", "photos:3"])
    def test_the_kinds_are_listed(self, spec):
        with pytest.raises(ImageError, match=f"'{spec}' does not exist .* photos, stl10, .*wds:…"):
            open_images(spec)

    def test_what_the_system_refuses(self):
        with pytest.raises(ImageError, match=r"aaa' cannot be read \(File name too long\)"):
            open_images("a" * 300)

    def test_no_images(self, tmp_path):
        for source in (tmp_path, tmp_path / "*.png"):
            with pytest.raises(ImageError, match=f"no images found in {tmp_path}.*; give a folder"):
                open_images(source)


class TestClassFolders:
    @pytest.fixture
    def root(self, tmp_path):
        for name in ("dog/1.png", "dog/2.png", "cat/1.png", "cat/deep/2.png", "ant/1.png", "x.png"):
            save(tmp_path / name)
        (tmp_path / "bee").mkdir()
        (tmp_path / ".git").mkdir()
        return tmp_path

    def test_labels_are_the_sorted_folders(self, root):
        source = open_images(f"imagefolder:{root}")
        labels = {image.id: image.label for image in source}
        assert labels == {
            "ant/1.png": 0,
            "cat/1.png": 2,
            "cat/deep/2.png": 2,
            "dog/1.png": 3,
            "dog/2.png": 3,
        }
        assert source.classes == 4

    def test_classes_take_turns(self, root):
        source = open_images(f"imagefolder:{root}", limit=4)
        assert [image.label for image in source] == [0, 2, 3, 2]

    def test_no_folder(self, root):
        with pytest.raises(ImageError, match=r"x\.png' is no folder; give one that holds a folder"):
            open_images(f"imagefolder:{root / 'x.png'}")

    @pytest.mark.parametrize("below", ["", "val"])
    def test_imagenet_has_the_standard_index(self, tmp_path, below):
        for wnid in ("n15075141", "n01440764", "n01443537"):
            save(tmp_path / below / wnid / "1.png")
        source = open_images(f"imagenet:{tmp_path}")
        assert [(image.id, image.label) for image in source] == [
            ("n01440764/1.png", 0),
            ("n01443537/1.png", 1),
            ("n15075141/1.png", 999),
        ]
        assert source.classes == 1000

    def test_imagenet_refuses_other_folders(self, root):
        with pytest.raises(ImageError, match=f"'ant' in {root} .* use imagefolder:{root} for"):
            open_images(f"imagenet:{root}")

    def test_imagenet_without_folders(self, tmp_path):
        with pytest.raises(ImageError, match="no images found in"):
            open_images(f"imagenet:{tmp_path}")


class Pairs(list):
    classes = ("cat", "dog")


class TestDataset:
    def test_pictures_of_every_kind(self):
        bands = torch.from_numpy(NOISE[..., :3]).permute(2, 0, 1)
        source = open_images([(picture(), 3), (bands, torch.tensor(1)), (bands.float() / 255, -1)])
        images = list(source)
        assert [(image.id, image.label) for image in images] == [("0", 3), ("1", 1), ("2", None)]
        scaled = [image.pixels if i < 2 else image.pixels * 255 for i, image in enumerate(images)]
        assert all(torch.equal(pixels.byte(), bands) for pixels in scaled)
        assert (source.count, source.classes, source.spec) == (3, 4, "list")

    def test_grey_tensor_and_no_label(self):
        (image,) = open_images([torch.full((1, 2, 2), 0.5)])
        assert (image.label, image.note, image.pixels.shape) == (None, "greyscale", (3, 2, 2))

    def test_classes(self):
        assert open_images(Pairs([(picture(), 0)])).classes == 2

    @pytest.mark.parametrize(
        ("item", "reason"),
        [
            (torch.full((3, 2, 2), -2.1), "has values from -2.1 to -2.1; scale them to [0, 1]"),
            (torch.zeros(2, 2), "is a Tensor (2, 2); give a PIL image or a tensor (3, H, W)"),
            (torch.zeros(3, 0, 2), "is a Tensor (3, 0, 2); give a PIL image or a tensor (3, H, W)"),
            ("x.png", "is a str (); give a PIL image or a tensor (3, H, W)"),
        ],
    )
    def test_bad_items_are_skipped(self, item, reason):
        source = open_images([(item, 0)])
        assert list(source) == []
        assert source.skipped == [("0", reason)]

    @pytest.mark.parametrize(
        "label", ["cat", 1.5, 2**63, torch.zeros(4), [{"id": 1}], float("nan")]
    )
    def test_a_label_that_is_no_number_is_named_with_its_item(self, label):
        sentence = "the label of item 1 cannot be read; give .image, whole number. pairs, or images"
        with pytest.raises(ImageError, match=sentence):
            list(open_images([(picture(), 0), (picture(), label)]))
        dataset = Pairs([(picture(), 0), (picture(), label)])
        with pytest.raises(ImageError, match=sentence):
            list(open_images(dataset))

    def test_what_has_no_length(self):
        stream = torch.utils.data.ChainDataset([])
        with pytest.raises(ImageError, match=r"a ChainDataset has no length .*; give a list of"):
            open_images(stream)


class TestTorchvision:
    @pytest.mark.parametrize(
        ("spec", "name", "options"),
        [("stl10", "STL10", {"split": "test"}), ("cifar10", "CIFAR10", {"train": False})],
    )
    def test_the_test_set_is_kept_in_the_cache(self, spec, name, options, tmp_path, monkeypatch):
        asked = []

        def fetch(root, **given):
            asked.append((root, given))
            return Pairs([(picture(), 1)])

        fetch.url = "https://x/y.tar.gz"
        monkeypatch.setattr(f"torchvision.datasets.{name}", fetch)
        monkeypatch.setenv("ALIASCOPE_CACHE", str(tmp_path))
        source = open_images(spec)
        assert asked == [(tmp_path, {"download": True, **options})]
        assert [(image.id, image.label) for image in source] == [("0", 1)]
        assert (source.classes, source.spec) == (2, spec)

    @pytest.mark.parametrize("spec", ["stl10", "cifar10"])
    def test_offline(self, spec, tmp_path, monkeypatch):
        def refuse(*_, **__):
            raise urllib.error.URLError("no network")

        monkeypatch.setattr(urllib.request, "urlopen", refuse)
        monkeypatch.setenv("ALIASCOPE_CACHE", str(tmp_path))
        archive = {"stl10": "stl10_binary", "cifar10": "cifar-10-python"}[spec]
        sentence = (
            rf"{archive}\.tar\.gz could not be fetched; put that file into {tmp_path}, .*\(no"
        )
        with pytest.raises(ImageError, match=sentence):
            open_images(spec)


class TestHuggingFace:
    @pytest.fixture(autouse=True)
    def offline(self, tmp_path_factory, monkeypatch):
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
        monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", True)

    @pytest.fixture
    def root(self, tmp_path):
        for name in ("train/cat/1.png", "validation/cat/1.png", "validation/dog/2.png"):
            save(tmp_path / name)
        return tmp_path

    def test_local_folder(self, root):
        source = open_images(f"hf:{root}")
        assert [(image.id, image.label) for image in source] == [("0", 0), ("1", 1)]
        assert [image.id for image in source] == ["0", "1"]  # again from the first
        assert (source.classes, source.count, source.identities()) == (2, None, None)

    def test_digest_follows_the_files_and_the_limit(self, root):
        digests = [open_images(f"hf:{root}", limit=n).digest for n in (None, None, 1)]
        digests.append(open_images(f"hf:{root}:train").digest)
        os.utime(root / "validation" / "cat" / "1.png", (1, 1))
        digests.append(open_images(f"hf:{root}").digest)
        assert [digests.index(digest) for digest in digests] == [0, 0, 2, 3, 4]

    def test_decoding_waits(self, root):
        (root / "validation" / "cat" / "1.png").write_bytes(b"junk")
        source = open_images(f"hf:{root}")
        assert ids(source) == ["0", "1"]
        assert [image.id for image in source] == ["1"]
        assert source.skipped[0].id == "0"

    def test_embedded_bytes(self, tmp_path):
        import datasets

        features = datasets.Features({"img": datasets.Image(), "kind": datasets.Value("int64")})
        rows = {"img": [picture(), None], "kind": [4, 4]}
        made = datasets.Dataset.from_dict(rows, features=features)
        (tmp_path / "made").mkdir()
        made.to_parquet(tmp_path / "made" / "test.parquet")
        source = open_images(f"hf:{tmp_path / 'made'}")
        (image,) = source
        assert torch.equal(image.pixels, decode(contents(picture()))[0])
        assert (image.label, source.classes) == (None, None)
        assert [skipped.id for skipped in source.skipped] == ["1"]

    def test_split(self, root):
        assert len(list(open_images(f"hf:{root}:train"))) == 1
        with pytest.raises(ImageError, match="has no split 'test'; choose from train, validation"):
            open_images(f"hf:{root}:test")

    def test_no_column_of_images(self, tmp_path):
        (tmp_path / "train.csv").write_text("a,b\n1,2\n")
        with pytest.raises(ImageError, match="has no column of images; give a data set"):
            open_images(f"hf:{tmp_path}")

    @pytest.mark.parametrize("spec", ["hf:nobody/nothing", "hf:"])
    def test_no_network_or_no_name(self, spec):
        sentence = f"{spec} cannot be opened; give a name on the Hub or a local folder"
        with pytest.raises(ImageError, match=sentence):
            open_images(spec)

    def test_missing_package(self, monkeypatch):
        monkeypatch.setitem(sys.modules, "datasets", None)
        with pytest.raises(ImageError, match=r"hf: .* datasets; run `pip install aliascope\[hf\]`"):
            open_images("hf:mnist")


class TestWebDataset:
    def shard(self, path, files):
        path.parent.mkdir(parents=True, exist_ok=True)
        with tarfile.open(path, "w") as tar:
            for name, data in files.items():
                member = tarfile.TarInfo(name)
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))

    @pytest.fixture
    def root(self, tmp_path):
        png, jpeg = contents(picture()), contents(picture(), "JPEG")
        self.shard(tmp_path / "s-0.tar", {"0.png": png, "0.cls": b"3", "1.input.JPG": jpeg})
        self.shard(tmp_path / "s-1.tar", {"0.png": png, "0.cls": b"5\n", "1.json": b"{}"})
        return tmp_path

    @pytest.mark.parametrize("pattern", ["s-{0..1}.tar", "s-*.tar", "{s-0,s-1}.tar"])
    def test_shards(self, root, pattern):
        source = open_images(f"wds:{root}/{pattern}")
        assert [(image.id, image.label) for image in source] == [
            ("s-0.tar/0", 3),
            ("s-0.tar/1", None),
            ("s-1.tar/0", 5),
        ]
        assert [skipped.id for skipped in source.skipped] == ["s-1.tar/1"]
        assert (source.count, source.classes) == (None, None)

    def test_digest_follows_the_shards_and_the_limit(self, root):
        spec = f"wds:{root}/s-0.tar"
        digests = [open_images(spec, limit=n).digest for n in (None, None, 1)]
        os.utime(root / "s-0.tar", (1, 1))
        digests.append(open_images(spec).digest)
        assert [digests.index(digest) for digest in digests] == [0, 0, 2, 3]
        assert open_images(spec).identities() is None

    def test_shards_of_the_same_name(self, tmp_path):
        for part in ("a", "b"):
            self.shard(tmp_path / part / "0.tar", {"0.png": contents(picture())})
        assert ids(open_images(f"wds:{tmp_path}/{{a,b}}/0.tar")) == ["a/0.tar/0", "b/0.tar/0"]

    def test_home(self, root, monkeypatch):
        monkeypatch.setenv("HOME", str(root))
        assert ids(open_images("wds:~/s-0.tar")) == ["s-0.tar/0", "s-0.tar/1"]

    def test_a_limit_closes_the_shard(self, root):
        assert len(list(open_images(f"wds:{root}/s-0.tar", limit=1))) == 1

    def test_a_damaged_shard_is_named_and_what_came_before_is_kept(self, root):
        data = (root / "s-1.tar").read_bytes()
        (root / "s-1.tar").write_bytes(data[:700])
        images = iter(open_images(f"wds:{root}/s-*.tar"))
        assert [next(images).id for _ in range(2)] == ["s-0.tar/0", "s-0.tar/1"]
        with pytest.raises(ImageError, match=r"s-1\.tar is damaged; mend it and run again"):
            next(images)

    def test_a_label_that_is_no_number(self, tmp_path):
        self.shard(tmp_path / "x.tar", {"0.png": contents(picture()), "0.cls": b"cat"})
        with pytest.raises(
            ImageError, match=r"the label of x\.tar/0 cannot be read; write a whole"
        ):
            list(open_images(f"wds:{tmp_path}/x.tar"))

    @pytest.mark.parametrize("spec", ["pipe:touch {}", "pipe:touch$IFS{}", "http://host/{}"])
    def test_commands_and_addresses_are_refused(self, spec, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        spec = spec.format("touched")
        with pytest.raises(ImageError, match="is no file; give local tar files, no addresses"):
            open_images(f"wds:{spec}")
        assert not (tmp_path / "touched").exists()

    def test_a_file_that_is_called_like_a_command_is_only_read(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        self.shard(tmp_path / "pipe:touch touched", {"0.png": contents(picture())})
        assert len(list(open_images("wds:pipe:touch touched"))) == 1
        assert not (tmp_path / "touched").exists()

    def test_unbalanced_braces(self):
        with pytest.raises(ImageError, match=r"wds:s-{0..1 cannot be read as a pattern; mend it"):
            open_images("wds:s-{0..1")

    def test_missing_package(self, monkeypatch):
        monkeypatch.setitem(sys.modules, "webdataset", None)
        with pytest.raises(ImageError, match=r"webdataset; run `pip install aliascope\[wds\]`"):
            open_images("wds:x.tar")


class TestPhotos:
    def test_crops(self):
        images = list(open_images("photos"))
        assert len({image.id for image in images}) == len(images) == 53
        assert {image.pixels.shape for image in images} == {(3, 256, 256)}
        groups = [image.group for image in images]
        assert len(set(groups)) == 17
        assert max(groups.count(group) for group in groups) == 6
        assert all(image.id.startswith(f"{image.group}#") for image in images)

    def test_a_crop_is_that_part_of_the_photograph(self):
        image = next(image for image in open_images("photos") if image.id == "coffee.png#0-1")
        root = Path(find_spec("skimage").submodule_search_locations[0])
        whole = np.array(PIL.Image.open(root / "data" / "coffee.png"))  # 400 rows, 600 columns
        oracle = whole[72 : 72 + 256, 44 + 256 : 44 + 512]
        assert np.array_equal(image.pixels.numpy().transpose(1, 2, 0), oracle)

    def test_no_two_crops_overlap(self):
        """Neighbouring crops side by side give back the photograph's centre, seam included."""
        crops = {image.id: image.pixels for image in open_images("photos", limit=4)}
        rows = [[crops[f"astronaut.png#{row}-{column}"] for column in (0, 1)] for row in (0, 1)]
        joined = torch.cat([torch.cat(row, dim=2) for row in rows], dim=1)
        root = Path(find_spec("skimage").submodule_search_locations[0])
        whole, _ = decode(root / "data" / "astronaut.png")
        assert torch.equal(joined, whole)

    def test_missing_package(self, monkeypatch):
        monkeypatch.setattr("aliascope.images.photos.find_spec", lambda _: None)
        with pytest.raises(ImageError, match="photographs of the package skimage are missing"):
            open_images("photos")

    def test_missing_photograph(self, monkeypatch):
        monkeypatch.setitem(photos.PHOTOS, "skimage/data", ["x.png"])
        with pytest.raises(ImageError, match=r"x\.png is missing; install its package again"):
            open_images("photos")


class TestSharedPhotographs:
    def test_stl10(self, published):
        source = open_images(published / "stl10_test_first1000")
        images = [(image.pixels.shape, image.label, image.note) for image in source]
        assert len(images) == 1000
        assert {shape for shape, _, _ in images} == {(3, 96, 96)}
        assert {label for _, label, _ in images} == set(range(10))
        assert [label for _, label, _ in images[:2]] == [6, 7]
        assert {note for _, _, note in images} == {""}
        assert source.classes == 10

    def test_imagenet(self, published):
        source = open_images(published / "imagenet_1000", limit=3)
        assert next((image.id, image.label) for image in source) == ("n01440764.jpg", 0)
        assert (source.classes, source.count) == (1000, 3)
