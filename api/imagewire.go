package api

import (
	"maps"
	"strconv"

	"github.com/capsuled/capsuled/api/dialect"
	"github.com/capsuled/capsuled/api/wire"
	"github.com/capsuled/capsuled/daemon"
)

func image(i daemon.Image) wire.Image {
	v := wire.Image{
		ID:            i.ID,
		Name:          i.Name,
		Description:   i.Description,
		State:         string(i.State),
		Cause:         i.Cause,
		Public:        i.Visibility == daemon.Public,
		Visibility:    string(i.Visibility),
		Protected:     i.Protected,
		Owner:         i.Owner,
		Digest:        i.Digest,
		Format:        i.Format,
		FileBytes:     i.FileBytes,
		VirtualBytes:  i.VirtualBytes,
		MinDiskGB:     i.MinDiskGB,
		MinRAMMB:      i.MinRAMMB,
		Metadata:      map[string]string{}, // never null
		SourceCapsule: i.SourceCapsule,
		LoginUser:     i.LoginUser,
		LoginPassword: i.LoginPassword,
		CreatedAt:     i.CreatedAt.UTC(),
		UpdatedAt:     i.UpdatedAt.UTC(),
	}
	maps.Copy(v.Metadata, i.Metadata)
	if !i.DeletedAt.IsZero() {
		deleted := i.DeletedAt.UTC()
		v.DeletedAt = &deleted
	}
	return v
}

var listedImage = dialect.NewText(func(i daemon.Image) any { return image(i) })

// textSize is about what an image with a few items of metadata takes in a list.
const textSize = 640

// imageList is a page as a [wire.ImageList].
func imageList(page daemon.ImagePage) []byte {
	b := make([]byte, 0, textSize*(1+len(page.Images)))
	b = listedImage.AppendList(append(b, `{"images":`...), page.Images)
	b = strconv.AppendBool(append(b, `,"more":`...), page.More)
	return append(b, "}\n"...)
}

// imageInfo is an image in the capsule dialect.
func imageInfo(i daemon.Image) wire.ImageInfo {
	v := wire.ImageInfo{
		ImageID:          i.ID,
		ImageName:        i.Name,
		ImageStatus:      string(i.State),
		ImageDescription: i.Description,
		ImagePath:        i.Digest, // not where it lies: that is nobody's business, and another place on each host
		LoginUserName:    i.LoginUser,
		LoginPassWord:    i.LoginPassword,
		Public:           i.Visibility == daemon.Public,
		Owner:            i.Owner,
		CreatedAt:        i.CreatedAt.UTC().Format(capsuleTime),
		UpdatedAt:        i.UpdatedAt.UTC().Format(capsuleTime),
	}
	if i.SourceCapsule != "" {
		v.SourceVM = &i.SourceCapsule
	}
	return v
}

func imageWaste(w daemon.ImageWaste) wire.ImageWaste {
	return wire.ImageWaste{ID: w.ID, Name: w.Name, Digest: w.Digest, Bytes: w.Bytes, Kept: w.Kept}
}

var listedInfo = dialect.NewText(func(i daemon.Image) any { return imageInfo(i) })

// imageInfos are images as a [wire.ImageInfoList].
func imageInfos(images []*daemon.Image) []byte {
	b := make([]byte, 0, textSize*(1+len(images)))
	b = listedInfo.AppendList(append(b, `{"imageInfo":`...), images)
	return append(b, "}\n"...)
}
