from __future__ import annotations

import pytest

from headgate.errors import RequirementsError
from images import refuse_passwords

WITH = "https://ann:planted@index.example/simple"


def model(tmp_path, **files: str):
    for name, text in files.items():
        (tmp_path / name.replace("__", ".")).write_text(text)
    return tmp_path


@pytest.mark.parametrize(("files", "says"), [
    ({"requirements__txt": f"numpy\n-i {WITH}\n"}, "requirements.txt has an address with a password: -i https://index"),
    ({"requirements__txt": "a @ https://planted@files.example/a.whl"}, "requirements.txt .*: a @ https://files.example/"),
    ({"requirements__txt": "-r more.txt\n", "more__txt": f"-i {WITH}\n"}, "requirements.txt .*: -i https://index"),
    ({"requirements__txt": f"-r gone.txt\n-f {WITH}\n"}, "requirements.txt .*: -f https://index"),
    ({"requirements__txt": "a @ git+ssh://git:planted@git.example/a"}, "requirements.txt .*: a @ git"),
    ({"conda__yaml": f"dependencies:\n- pip:\n  - --index-url {WITH}\n"}, "conda.yaml .*: - --index-url https://index"),
    ({"MLmodel": "metadata: {store: 's3://ann:planted@bucket'}\n"}, "MLmodel .*: metadata"),
    ({"python_env__yaml": f"dependencies: [-i {WITH}]\n"}, "python_env.yaml"),
])  # fmt: skip
def test_a_password_is_refused_and_not_repeated(tmp_path, files, says):
    with pytest.raises(RequirementsError, match=says) as raised:
        refuse_passwords(model(tmp_path, **files))
    assert "planted" not in str(raised.value)


@pytest.mark.parametrize("line", [
    "a @ git+ssh://git@git.example/a",
    "--extra-index-url https://index.example/simple", "a @ https://h/a@1.whl", "./a.whl",
    "# https://ann:secret@index.example/simple",
])  # fmt: skip
def test_what_has_no_password_is_taken(tmp_path, line):
    refuse_passwords(model(tmp_path, requirements__txt=line, MLmodel="flavors: {}"))
    refuse_passwords(model(tmp_path, requirements__txt=""))
