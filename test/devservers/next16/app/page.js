import Counter from "./counter";
import Greeter from "./greeter";

export default function Home() {
  return (
    <main>
      <h1 id="greeting">Edition 0</h1>
      <Counter />
      <Greeter />
    </main>
  );
}
