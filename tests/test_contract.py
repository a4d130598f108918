from collections.abc import Iterator

import pytest

from tests.support.contract import CheckedApi
from tests.support.platform import Platform


@pytest.fixture(scope="module")
def api(platform: Platform) -> Iterator[CheckedApi]:
    client = CheckedApi(platform.endpoints)
    yield client
    client.close()


def test_one(api):
    p = api.sign_up("Asha Kumar")
    api.deposit(p, 100)
