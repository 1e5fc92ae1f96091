"""python3-openstacksdk: the images of Nova v2.1."""
import openstack
from openstack import exceptions

from common import BASE, IMAGES, TOKEN, raises, same

conn = openstack.connect(
    auth_type="admin_token",
    auth={"endpoint": BASE + "/v2.1", "token": TOKEN},
    compute_endpoint_override=BASE + "/v2.1",
)
compute = conn.compute

# Version discovery, by the session's own means.
data = compute.get_endpoint_data()
same(data.api_version, (2, 1), "version")
same(data.max_microversion, (2, 38), "greatest microversion")

# Lists follow the links through all pages.
every = list(compute.images(details=True, limit=2))
ids = [i.id for i in every]
same(len(ids), len(set(ids)), "an image in two pages")
for name, id in IMAGES.items():
    assert id in ids, "image %s is not in the list" % name
same([i.id for i in compute.images(details=False)], ids, "the brief list")
same([i.created_at for i in every], sorted((i.created_at for i in every), reverse=True), "the order")
same([i.id for i in compute.images(details=True, name="two")], [IMAGES["two"]], "by name")
same([i.id for i in compute.images(details=True, status="deleted")], [], "by status")
same([i.id for i in compute.images(details=True, changes_since="2099-01-01T00:00:00Z")], [], "changed since the future")

one = compute.get_image(IMAGES["own"])
same((one.name, one.status, one.progress), ("own", "ACTIVE", 100), "one image")
assert one.size > 0, one.size
same(compute.find_image("two").id, IMAGES["two"], "found by name")
raises(exceptions.ResourceNotFound, compute.get_image, "6f1c7a52-0b5e-4c64-9a53-0d2f5d1f7a10")

# Metadata: merge, one item, all.
compute.set_image_metadata(one, color="blue", note="tränen ☐")
compute.set_image_metadata(one, color="red")
same(dict(compute.get_image_metadata(one).metadata), {"color": "red", "note": "tränen ☐"}, "merged")
one.set_metadata_item(compute, "shape", "round")
same(one.get_metadata_item(compute, "shape").metadata.get("shape"), "round", "one item")
compute.delete_image_metadata(one, ["shape", "note"])
same(dict(compute.get_image_metadata(one).metadata), {"color": "red"}, "two items less")
raises(exceptions.NotFoundException, one.delete_metadata_item, compute, "never")
compute.delete_image_metadata(one)
same(dict(compute.get_image_metadata(one).metadata), {}, "all gone")

# What is another's may be read when it is public, and not written.
no = raises(exceptions.HttpException, compute.set_image_metadata, compute.get_image(IMAGES["two"]), color="blue")
same(no.status_code, 403, "metadata of another's image")
no = raises(exceptions.HttpException, compute.delete_image, IMAGES["two"], ignore_missing=False)
same(no.status_code, 403, "deletion of another's image")

compute.delete_image(IMAGES["spare"], ignore_missing=False)
same(compute.get_image(IMAGES["spare"]).status, "DELETED", "after its deletion")
assert IMAGES["spare"] not in [i.id for i in compute.images(details=False)]
# Only who asks what changed is told of what is deleted.
changed = {i.id: i.status for i in compute.images(details=True, changes_since="2001-01-01T00:00:00Z")}
same(changed.get(IMAGES["spare"]), "DELETED", "changed since long ago")
assert set(ids) <= set(changed), set(ids) - set(changed)
print("done")
