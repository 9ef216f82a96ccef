package dockerops

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"sync"

	"github.com/containerd/errdefs"
	"github.com/docker/docker/api/types/container"
	dockerimage "github.com/docker/docker/api/types/image"
	"github.com/docker/docker/client"

	"github.com/aie-sandbox/caddy-sandbox/instance"
)

// image is what an image brings into its containers. Its id is a hash of it,
// so it never changes.
type image struct {
	id      string // sha256:…
	command []string
	workDir string
	user    string
	env     []string
}

// imageCache holds images by id. It saves Inspect a second call.
type imageCache struct{ byID sync.Map }

// Pull implements instance.Pulling.
func (c *Client) Pull(ctx context.Context, spec instance.Spec) error {
	_, err := c.readyImage(ctx, spec.Image, spec.Pull)
	return err
}

// ImageEnv implements instance.Imaging.
func (c *Client) ImageEnv(ctx context.Context, name string) (map[string]string, error) {
	img, err := c.inspectImage(ctx, name)
	return variables(img.env), err
}

// ImageID implements instance.Imaging.
func (c *Client) ImageID(ctx context.Context, name string) (string, error) {
	img, err := c.inspectImage(ctx, name)
	return img.id, err
}

// readyImage returns the image of that name, fetched by policy.
func (c *Client) readyImage(ctx context.Context, name string, policy instance.PullPolicy) (image, error) {
	if policy != instance.PullAlways {
		img, err := c.inspectImage(ctx, name)
		if instance.KindOf(err) != instance.ImageMissing || policy == instance.PullNever {
			return img, err
		}
	}
	if err := c.pull(ctx, name); err != nil {
		return image{}, err
	}
	return c.inspectImage(ctx, name)
}

// inspectImage is ImageMissing if the engine has no image of that name or id.
func (c *Client) inspectImage(ctx context.Context, name string) (image, error) {
	var found dockerimage.InspectResponse
	err := c.query(ctx, "inspecting image "+name, c.Deadlines.Inspect,
		func(ctx context.Context, engine *client.Client) (err error) {
			found, err = engine.ImageInspect(ctx, name)
			if errdefs.IsNotFound(err) || errdefs.IsInvalidArgument(err) {
				return imageMissing(name, err)
			}
			return err
		})
	if err != nil {
		return image{}, err
	}
	img := image{id: found.ID}
	if found.Config != nil {
		img.command, img.workDir, img.user = found.Config.Cmd, found.Config.WorkingDir, found.Config.User
		img.env = found.Config.Env
	}
	c.images.byID.Store(img.id, img)
	return img, nil
}

// imageOf is the image that found was made from; if somebody removed that by
// force, one that brings nothing.
func (c *Client) imageOf(ctx context.Context, found container.InspectResponse) (image, error) {
	if img, ok := c.images.byID.Load(found.Image); ok {
		return img.(image), nil
	}
	img, err := c.inspectImage(ctx, found.Image)
	if instance.KindOf(err) == instance.ImageMissing {
		return image{}, nil
	}
	return img, err
}

func imageMissing(name string, cause error) error {
	return failed(instance.ImageMissing, cause,
		"there is no image %s: build it, load it or pull it, or correct its name", name).With("image", name)
}

// pull fetches an image from its registry, without credentials. Callers who
// want the same one share a pull, which goes on when they leave: the next one
// finds it further along.
func (c *Client) pull(ctx context.Context, name string) error {
	_, err := c.pulls.do(ctx, c.life, name, func(ctx context.Context) (none struct{}, err error) {
		return none, c.call(ctx, "pulling image "+name, c.Deadlines.Pull,
			func(ctx context.Context, engine *client.Client) error { return pullImage(ctx, engine, name) })
	})
	if err == nil {
		return nil
	}
	err = c.classify(ctx, "pulling image "+name, err)
	if kind := instance.KindOf(err); kind == instance.EngineDown || kind == instance.Timeout {
		return err
	}
	return failed(instance.ImageMissing, errors.Unwrap(err), "image %s could not be pulled: "+
		"correct its name, build it, or log in and pull it by hand", name).With("image", name)
}

// pullImage returns when the image is complete. Failures come as messages of
// a stream that began well.
func pullImage(ctx context.Context, engine *client.Client, name string) error {
	stream, err := engine.ImagePull(ctx, name, dockerimage.PullOptions{})
	if err != nil {
		return err
	}
	defer func() { _ = stream.Close() }()
	for messages := json.NewDecoder(stream); ; {
		var message struct {
			Error string `json:"error"`
		}
		switch err := messages.Decode(&message); {
		case errors.Is(err, io.EOF):
			return nil
		case err != nil:
			return err
		case message.Error != "":
			return errors.New(message.Error)
		}
	}
}
