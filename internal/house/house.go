// Package house holds nothing but tests: of the rules of the repository that a compiler can't check, and of the files that
// operators take.
package house
