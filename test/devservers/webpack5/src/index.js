import greeting from "./greeting.js";

const show = () => {
    document.querySelector("#greeting").textContent = greeting;
};
show();

let count = 0;
const counter = document.querySelector("#counter");
counter.addEventListener("click", () => {
    counter.textContent = `Count is ${++count}`;
});

import.meta.webpackHot?.accept("./greeting.js", show);
