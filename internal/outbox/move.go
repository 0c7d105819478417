package outbox

// The way of a file's content into a database: what a coordinator has kept in a directory before it had one.

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

const moved = ".moved"

// File is the outbox of a directory, which no other process can use meanwhile.
type File struct {
	*boltStore
	Content Cluster // without Tails
}

// OpenFile opens the outbox of a directory if there is one; else it returns nil. It has a store ID from then on.
func OpenFile(dir string) (*File, error) {
	if _, err := os.Stat(filepath.Join(dir, outboxFile)); errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	} else if err != nil {
		return nil, err
	}
	store, found, err := openStore(dir)
	if err != nil {
		return nil, err
	}
	if found != nil {
		return nil, errors.Join(fmt.Errorf("the outbox is damaged and was set aside as %s: %w", found.aside, found.err), store.Close())
	}
	f := &File{boltStore: store}
	if f.Content, err = store.Cluster(); err == nil && f.Content.StoreID == "" {
		f.Content.StoreID = rand.Text()
		_, err = store.Commit(Group{Changes: []Change{nameStore(f.Content.StoreID)}})
	}
	if err != nil {
		return nil, errors.Join(err, store.Close())
	}
	return f, nil
}

// Each calls event with each undelivered event, in order, and announced with each announced stream and the next position of its queue.
func (f *File) Each(event func(Event) error, announced func(a Announced, tail uint32)) (err error) {
	loaded := f.Load(func(number uint64, record QueueRecord) {
		for _, s := range record.Announced {
			announced(Announced{number, s}, record.Tail)
		}
		for position := record.Head; position < record.Tail && err == nil; position++ {
			ev, readErr := f.Read(number, position)
			if readErr != nil {
				err = readErr
				return
			}
			ev.Queue, ev.Position = number, position
			err = event(ev)
		}
	})
	return errors.Join(loaded, err)
}

// Moved renames the file, so that no start finds it again.
func (f *File) Moved() (name string, err error) {
	path := filepath.Join(f.dir, outboxFile)
	if err := os.Rename(path, path+moved); err != nil {
		return "", err
	}
	return path + moved, syncDirectory(f.dir)
}
