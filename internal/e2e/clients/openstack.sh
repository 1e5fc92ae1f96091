#!/bin/sh
# python3-openstackclient: what a person types, by name and password.
set -eu
export OS_AUTH_URL="$CAPSULED_URL/identity/v3" OS_USERNAME=alice OS_PASSWORD="$CAPSULED_PASSWORD" OS_PROJECT_ID="$CAPSULED_PROJECT" \
	OS_USER_DOMAIN_ID=default OS_IDENTITY_API_VERSION=3 OS_REGION_NAME=RegionOne
openstack() { /usr/bin/python3 /usr/bin/openstack "$@"; }
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

openstack token issue -f value -c project_id | grep -qx "$CAPSULED_PROJECT"
openstack image list -f value -c Name >"$work/list"
grep -qx own "$work/list"
grep -qx two "$work/list"

openstack image create --disk-format raw --container-format bare --file "$CAPSULED_DISK" --property hw_disk_bus=virtio --private typed -f value -c id >"$work/id"
id=$(cat "$work/id")
[ "$(openstack image show "$id" -f value -c status)" = active ]
openstack image set --name retyped --min-ram 64 "$id"
[ "$(openstack image show retyped -f value -c min_ram)" = 64 ]
openstack image save --file "$work/back" retyped
cmp "$CAPSULED_DISK" "$work/back"
openstack image delete retyped
if openstack image list -f value -c Name | grep -q typed; then
	echo "it is still there" >&2
	exit 1
fi
echo done
