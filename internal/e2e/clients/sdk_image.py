"""python3-openstacksdk: the images of Glance v2, from the first byte to the last."""
import hashlib
import io
import os

import openstack
from openstack import exceptions

from common import BASE, IMAGES, TOKEN, raises, same

conn = openstack.connect(
    auth_type="admin_token",
    auth={"endpoint": BASE + "/image", "token": TOKEN},
    image_endpoint_override=BASE + "/image/v2",
)
image = conn.image

ids = [i.id for i in image.images(limit=2)]
for name, id in IMAGES.items():
    assert id in ids, "image %s is not in the list" % name

content = os.urandom(3 << 20)
made = image.create_image("uploaded", filename=None, data=None, container="bare", container_format="bare",
                          disk_format="raw", visibility="private", allow_duplicates=True, wait=False) \
    if False else image._create(  # the plain resource: create_image() wants a file or Swift
        openstack.image.v2.image.Image, name="uploaded", container_format="bare", disk_format="raw",
        visibility="private", hw_disk_bus="virtio")
same(made.status, "queued", "without its bytes")
made.data = content
made.upload(image)
got = image.get_image(made.id)
same((got.status, got.size, got.properties.get("hw_disk_bus")), ("active", len(content), "virtio"), "with its bytes")

back = image.download_image(got)
back = back.content if hasattr(back, "content") else back
same(hashlib.sha256(back).hexdigest(), hashlib.sha256(content).hexdigest(), "what comes back")

changed = image.update_image(got.id, name="renamed", min_ram=64)
same((changed.name, changed.min_ram), ("renamed", 64), "changed")
raises(exceptions.ForbiddenException, image.delete_image, IMAGES["two"], ignore_missing=False)
image.delete_image(got.id, ignore_missing=False)
assert made.id not in [i.id for i in image.images()]
print("done")
