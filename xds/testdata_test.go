package xds

import "github.com/meridian-mesh/meridian/xds/ir"

// testIdentity is a real certificate with its key, made for tests and trusted by nobody.
var testIdentity = &ir.Identity{Chain: []byte(testCert), Key: []byte(testKey)}

const testCert = `-----BEGIN CERTIFICATE-----
MIIBtTCCAVqgAwIBAgIULGq6FRTHvqGtdYA5aoXwcyB7yHEwCgYIKoZIzj0EAwIw
DzENMAsGA1UEAwwEdGVzdDAgFw0yNjExMjEwMDQzNThaGA8yMTI2MTAyODAwNDM1
OFowDzENMAsGA1UEAwwEdGVzdDBZMBMGByqGSM49AgEGCCqGSM49AwEHA0IABLnb
UGW7udtqEL6sOvCRa59jy0kvAB7T3uXJENrQSO5Z7I+7YZKRHKFryvaOOnyC9EDm
RzcvbyGDDbI9rJPsNiWjgZEwgY4wHQYDVR0OBBYEFCrj2gnVNX5qgYmgkPURnnJD
MgKQMB8GA1UdIwQYMBaAFCrj2gnVNX5qgYmgkPURnnJDMgKQMA8GA1UdEwEB/wQF
MAMBAf8wOwYDVR0RBDQwMoYUc3BpZmZlOi8vZGVmYXVsdC93ZWKGGmt1bWE6Ly9r
dW1hLmlvL3NlcnZpY2Uvd2ViMAoGCCqGSM49BAMCA0kAMEYCIQDb6MNaA300SqDz
1tAzmcIlLIWP7G+Ct6xyEz4gP4eYqQIhALkO0UmOZVB225ynBRIBVwyBqFCqvpT0
mDAOQKar793H
-----END CERTIFICATE-----
`

const testKey = `-----BEGIN EC PRIVATE KEY-----
MHcCAQEEIJiAMOZKz10ajwUR3hjhJavsoPfMJnTx8ncP6Qw9DrRBoAoGCCqGSM49
AwEHoUQDQgAEudtQZbu522oQvqw68JFrn2PLSS8AHtPe5ckQ2tBI7lnsj7thkpEc
oWvK9o46fIL0QOZHNy9vIYMNsj2sk+w2JQ==
-----END EC PRIVATE KEY-----
`
