"use server";

export async function greet(previous, form) {
  return `The server greets ${form.get("name")}`;
}
