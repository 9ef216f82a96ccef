export default "Edition 0";
