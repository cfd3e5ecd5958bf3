// What go/types resolves: prints "file TAB file" where the first uses a name that the second declares in the same
// package, outside functions; of a name with one declaration for each platform, all. Unknown dependencies are errors
// that it passes over.
//
// go run package_uses.go FOLDER
package main

import (
	"fmt"
	"go/ast"
	"go/importer"
	"go/parser"
	"go/token"
	"go/types"
	"io/fs"
	"os"
	"path/filepath"
	"sort"
	"strings"
)

func main() {
	top := os.Args[1]
	found := map[string]bool{}
	folders := map[string][]string{}
	filepath.WalkDir(top, func(path string, entry fs.DirEntry, err error) error {
		if err == nil && !entry.IsDir() && strings.HasSuffix(path, ".go") {
			folders[filepath.Dir(path)] = append(folders[filepath.Dir(path)], path)
		}
		return err
	})
	for _, paths := range folders {
		set := token.NewFileSet()
		packages := map[string][]*ast.File{}
		for _, path := range paths {
			if file, _ := parser.ParseFile(set, path, nil, parser.SkipObjectResolution); file != nil && file.Name != nil {
				packages[file.Name.Name] = append(packages[file.Name.Name], file)
			}
		}
		for name, files := range packages {
			info := &types.Info{Uses: map[*ast.Ident]types.Object{}}
			config := types.Config{Error: func(error) {}, Importer: importer.Default(), FakeImportC: true}
			pkg, _ := config.Check(name, set, files, info)
			declared := declarations(set, files)
			for word, object := range info.Uses {
				if object.Pkg() != pkg || object.Parent() != pkg.Scope() {
					continue
				}
				from := set.Position(word.Pos()).Filename
				for to := range declared[object.Name()] {
					test := strings.HasSuffix(to, "_test.go") && !strings.HasSuffix(from, "_test.go")
					if !declared[object.Name()][from] && !test {
						one, _ := filepath.Rel(top, from)
						other, _ := filepath.Rel(top, to)
						found[one+"\t"+other] = true
					}
				}
			}
		}
	}
	lines := []string{}
	for line := range found {
		lines = append(lines, line)
	}
	sort.Strings(lines)
	fmt.Println(strings.Join(lines, "\n"))
}

// declarations returns name -> the files that declare it outside functions.
func declarations(set *token.FileSet, files []*ast.File) map[string]map[string]bool {
	found := map[string]map[string]bool{}
	add := func(name *ast.Ident) {
		if found[name.Name] == nil {
			found[name.Name] = map[string]bool{}
		}
		found[name.Name][set.Position(name.Pos()).Filename] = true
	}
	for _, file := range files {
		for _, one := range file.Decls {
			switch declaration := one.(type) {
			case *ast.FuncDecl:
				if declaration.Recv == nil {
					add(declaration.Name)
				}
			case *ast.GenDecl:
				for _, spec := range declaration.Specs {
					switch given := spec.(type) {
					case *ast.TypeSpec:
						add(given.Name)
					case *ast.ValueSpec:
						for _, name := range given.Names {
							add(name)
						}
					}
				}
			}
		}
	}
	return found
}
