module github.com/capsuled/capsuled/internal/e2e/gophercloud

go 1.26

require github.com/gophercloud/gophercloud v1.14.1
