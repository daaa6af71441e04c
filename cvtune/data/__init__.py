"""From a folder of images to sides and pixels: index, split, preprocessing, pixel cache, augmentation."""
