"use client";

import { useActionState } from "react";
import { greet } from "./actions";

export default function Greeter() {
  const [answer, action] = useActionState(greet, "");

  return (
    <form action={action}>
      <input id="name" name="name" />
      <button id="send">Send</button>
      <output id="answer">{answer}</output>
    </form>
  );
}
