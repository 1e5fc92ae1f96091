"""tempest's image client as a library: every call is held against strict JSON schemas and exact status codes."""
from tempest.lib import auth, exceptions
from tempest.lib.services.compute import images_client

from common import BASE, IMAGES, PROJECT, TOKEN, raises, same


class Provider(auth.AuthProvider):
    """Signs requests with a token that is there already."""

    class credentials:
        username = user_id = tenant_name = project_name = tenant_id = project_id = PROJECT
        password = ""

    def __init__(self, base):
        self.base = base

    def auth_request(self, method, url, headers=None, body=None, filters=None):
        return self.base + "/" + url.lstrip("/"), dict(headers or {}, **{"X-Auth-Token": TOKEN}), body

    def base_url(self, filters, auth_data=None):
        return self.base

    def _decorate_request(self, *a, **k):
        raise NotImplementedError

    def _get_auth(self):
        raise NotImplementedError

    def _fill_credentials(self, *a, **k):
        raise NotImplementedError

    @classmethod
    def check_credentials(cls, credentials):
        return True

    def is_expired(self, auth_data):
        return False


def walk(base, image):
    client = images_client.ImagesClient(Provider(base), "compute", "RegionOne")
    listed = client.list_images()["images"]
    detailed = client.list_images(detail=True)["images"]
    same([i["id"] for i in listed], [i["id"] for i in detailed], "brief and detailed list")
    page = client.list_images(limit=1)
    same((len(page["images"]), len(page["images_links"])), (1, 1), "a page of one")
    same(client.show_image(image)["image"]["id"], image, "one image")

    same(client.set_image_metadata(image, {"a": "1", "b": "2"})["metadata"], {"a": "1", "b": "2"}, "all set")
    same(client.update_image_metadata(image, {"b": "3", "c": "4"})["metadata"], {"a": "1", "b": "3", "c": "4"}, "merged")
    same(client.list_image_metadata(image)["metadata"], {"a": "1", "b": "3", "c": "4"}, "listed")
    same(client.set_image_metadata_item(image, "a", {"a": "5"})["meta"], {"a": "5"}, "one item set")
    same(client.show_image_metadata_item(image, "a")["meta"], {"a": "5"}, "one item")
    client.delete_image_metadata_item(image, "a")
    raises(exceptions.NotFound, client.show_image_metadata_item, image, "a")
    raises(exceptions.NotFound, client.delete_image_metadata_item, image, "a")
    raises(exceptions.NotFound, client.show_image, "6f1c7a52-0b5e-4c64-9a53-0d2f5d1f7a10")
    for bad in ("", "!@#$%^&*()", "-1", "a" * 255):
        raises(exceptions.NotFound, client.delete_image, bad)
    return client


walk(BASE + "/v2/" + PROJECT, IMAGES["own"])
client = walk(BASE + "/v2.1", IMAGES["own"])
raises(exceptions.Forbidden, client.set_image_metadata, IMAGES["own"], {"k%d" % i: "v" for i in range(129)})
client.delete_image(IMAGES["spare"])
client.wait_for_resource_deletion(IMAGES["spare"])
print("done")
