package store

import "errors"

// Setting reads a setting that records depend on; "" when it was never written.
func (t *Tx) Setting(key string) (string, error) {
	v, err := first(t, func(s scanner) (v string, err error) { return v, s.Scan(&v) }, `SELECT value FROM settings WHERE key = ?`, key)
	if errors.Is(err, ErrNotFound) {
		return "", nil
	}
	return v, err
}

// PutSetting writes a setting.
func (t *Tx) PutSetting(key, value string) error {
	_, err := t.exec(`INSERT INTO settings (key, value) VALUES (?, ?) ON CONFLICT (key) DO UPDATE SET value = excluded.value`, key, value)
	return err
}
