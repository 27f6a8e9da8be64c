"""Sources that several tests read: JPEGs, tars of them, and an object of one's own."""

import io
import tarfile

from PIL import Image

from budgetloader import Dataset


def jpeg(color=0, size=(40, 30), mode="RGB", **options):
    out = io.BytesIO()
    Image.new(mode, size, color).save(out, "JPEG", **options)
    return out.getvalue()


def tar_of(path, *members, then=b""):
    """A tar of (name, data, changes to its header)."""
    with tarfile.open(path, "w") as tar:
        for name, data, changes in members:
            member = tarfile.TarInfo(name)
            member.size = len(data)
            for key, value in changes.items():
                setattr(member, key, value)
            tar.addfile(member, io.BytesIO(data))
    with open(path, "ab") as file:
        file.write(then)
    return path


class Mine:
    """The least that a source has, over the images of a file."""

    def __init__(self, file, **changes):
        self._dataset = Dataset(file)
        self.heights, self.widths, self.labels = self._dataset.heights, self._dataset.widths, list(self._dataset.labels)
        self.fingerprint = "mine, 1st version"
        vars(self).update(changes)

    def jpeg(self, sample):
        return self._dataset.jpeg(sample).tobytes()
