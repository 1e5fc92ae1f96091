"""python3-openstacksdk: the images of Glance v2, from the first byte to the last."""
import hashlib
import os

import openstack
from openstack import exceptions
from openstack.image.v2 import image as _image

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

content = open(os.environ["CAPSULED_DISK"], "rb").read()
# The plain resource: create_image() wants a file or Swift.
made = image._create(_image.Image, name="uploaded", container_format="bare", disk_format="raw", visibility="private", vendor_note="x")
same(made.status, "queued", "without its bytes")
made.data = content
made.upload(image)
got = image.get_image(made.id)
same((got.status, got.size, got.properties.get("vendor_note")), ("active", len(content), "x"), "with its bytes")

back = image.download_image(got)
back = back.content if hasattr(back, "content") else back
same(hashlib.sha256(back).hexdigest(), hashlib.sha256(content).hexdigest(), "what comes back")

changed = image.update_image(got.id, name="renamed", min_ram=64)
same((changed.name, changed.min_ram), ("renamed", 64), "changed")
no = raises(exceptions.HttpException, image.delete_image, IMAGES["two"], ignore_missing=False)
same(no.status_code, 403, "deletion of another's image")
image.delete_image(got.id, ignore_missing=False)
assert made.id not in [i.id for i in image.images()]
print("done")
