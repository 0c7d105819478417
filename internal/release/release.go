// Package release tests what a release is made of: packages, image, completion of flags, manual page and the workflows that make it.
package release
