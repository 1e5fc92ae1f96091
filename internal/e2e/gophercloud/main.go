// Command gophercloud walks the images of a capsuled host with gophercloud, unmodified. It is a module of its own, so
// that the daemon never depends on it. It ends with 0 when everything was as it should be.
package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"slices"

	"github.com/gophercloud/gophercloud"
	"github.com/gophercloud/gophercloud/openstack"
	"github.com/gophercloud/gophercloud/openstack/compute/v2/images"
	"github.com/gophercloud/gophercloud/pagination"
)

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	fmt.Println("done")
}

func run() error {
	base, project := os.Getenv("CAPSULED_URL"), os.Getenv("CAPSULED_PROJECT")
	made := map[string]string{} // name -> id
	if err := json.Unmarshal([]byte(os.Getenv("CAPSULED_IMAGES")), &made); err != nil {
		return err
	}
	// The identity service, found by its versions, gives out a token for the one that is there, and a catalog.
	provider, err := openstack.AuthenticatedClient(gophercloud.AuthOptions{
		IdentityEndpoint: base + "/identity/", TokenID: os.Getenv("CAPSULED_TOKEN"), Scope: &gophercloud.AuthScope{ProjectID: project},
	})
	if err != nil {
		return fmt.Errorf("authenticate: %w", err)
	}
	client, err := openstack.NewComputeV2(provider, gophercloud.EndpointOpts{Region: "RegionOne"})
	if err != nil {
		return fmt.Errorf("catalog: %w", err)
	}
	for _, microversion := range []string{"", "2.35"} {
		client.Microversion = microversion
		if err := list(client, made); err != nil {
			return fmt.Errorf("microversion %q: %w", microversion, err)
		}
	}
	client.Microversion = "2.36"
	if _, err := images.Get(client, made["own"]).Extract(); !notFound(err) {
		return fmt.Errorf("images after microversion 2.35: %v", err)
	}
	client.Microversion = ""
	return write(client, made)
}

func list(client *gophercloud.ServiceClient, made map[string]string) error {
	var seen []string
	pages := 0
	err := images.ListDetail(client, images.ListOpts{Limit: 2}).EachPage(func(page pagination.Page) (bool, error) {
		pages++
		all, err := images.ExtractImages(page)
		for _, i := range all {
			seen = append(seen, i.ID)
			if i.Status != "ACTIVE" || i.Progress != 100 {
				return false, fmt.Errorf("image %s is %s, %d %%", i.ID, i.Status, i.Progress)
			}
		}
		return true, err
	})
	if err != nil {
		return err
	}
	for name, id := range made {
		if !slices.Contains(seen, id) {
			return fmt.Errorf("image %s is in none of %d pages", name, pages)
		}
	}
	one, err := images.Get(client, made["own"]).Extract()
	if err != nil || one.Name != "own" {
		return fmt.Errorf("image own is %+v: %w", one, err)
	}
	return nil
}

func write(client *gophercloud.ServiceClient, made map[string]string) error {
	url := client.ServiceURL("images", made["own"], "metadata")
	ok := &gophercloud.RequestOpts{OkCodes: []int{200}}
	var reply struct{ Metadata map[string]string }
	if _, err := client.Post(url, map[string]any{"metadata": map[string]string{"a": "b"}}, &reply, ok); err != nil || reply.Metadata["a"] != "b" {
		return fmt.Errorf("metadata %v: %w", reply, err)
	}
	if _, err := client.Delete(url+"/a", nil); err != nil {
		return fmt.Errorf("metadata item: %w", err)
	}
	if err := images.Delete(client, made["spare"]).ExtractErr(); err != nil {
		return fmt.Errorf("delete: %w", err)
	}
	if err := images.Delete(client, "6f1c7a52-0b5e-4c64-9a53-0d2f5d1f7a10").ExtractErr(); !notFound(err) {
		return fmt.Errorf("delete of what never was: %v", err)
	}
	return nil
}

func notFound(err error) bool {
	var no gophercloud.ErrDefault404
	return errors.As(err, &no)
}
