// OpenShift's schemas (CustomResourceDefinitions), for tests/e2e. Nothing of it is compiled. This file has the newest
// version, release-4.21.mod the one of 4.21.
module kms-plugin/tests/openshift

go 1.26.0

require github.com/openshift/api v0.0.0-20260813212709-d4bb0b443cb8
