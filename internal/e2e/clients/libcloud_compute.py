"""python3-libcloud: the images of Nova v2, as Rackspace has them."""
from libcloud.common.exceptions import BaseHTTPError
from libcloud.compute.providers import get_driver
from libcloud.compute.types import Provider

from common import BASE, IMAGES, PROJECT, TOKEN, raises, same

driver = get_driver(Provider.OPENSTACK)(
    "user", "password", secure=False, api_version="1.1",
    ex_force_auth_url=BASE + "/identity", ex_force_auth_version="2.0_password",
    ex_force_base_url=BASE + "/v2/" + PROJECT, ex_force_auth_token=TOKEN)

images = {i.id: i for i in driver.list_images(ex_only_active=False)}
for name, id in IMAGES.items():
    same(images[id].name, name, "name of " + id)
one = driver.get_image(IMAGES["own"])
same((one.name, one.extra["status"], one.extra["progress"]), ("own", "ACTIVE", 100), "one image")
raises(BaseHTTPError, driver.get_image, "6f1c7a52-0b5e-4c64-9a53-0d2f5d1f7a10")
same(driver.delete_image(one), True, "deleted")
assert one.id not in [i.id for i in driver.list_images()]
print("done")
