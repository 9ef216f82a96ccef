import { defineAction } from 'astro:actions';

export const server = {
  greet: defineAction({
    accept: 'form',
    handler: (form) => `The server greets ${form.get('name')}`,
  }),
};
